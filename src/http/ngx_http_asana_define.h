
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_DEFINE_H_INCLUDED_
#define _NGX_HTTP_ASANA_DEFINE_H_INCLUDED_


#include "ngx_http_asana_conf.h"


/*
 * The backend of "state=postgresql:", set before "http" is read by the module
 * that has it; NULL: it is not loaded.
 */
extern ngx_asana_backend_t  *ngx_http_asana_define_fleet;

/* A handler of a directive, at configuration time: "asana_hook_zone". */
char *ngx_http_asana_define(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);


#endif /* _NGX_HTTP_ASANA_DEFINE_H_INCLUDED_ */
