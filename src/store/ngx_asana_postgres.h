
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_POSTGRES_H_INCLUDED_
#define _NGX_ASANA_POSTGRES_H_INCLUDED_


#include "ngx_asana_backend.h"


/*
 * A store that hosts share, in the tables of share/asana_hook.sql.  conf->seal
 * is required.
 */
extern ngx_asana_backend_t  ngx_asana_postgres;

/*
 * Checks the URI in conf->state, at configuration time; connects to nothing.
 * NULL, or what is wrong with it.
 */
const char *ngx_asana_postgres_check(ngx_asana_backend_conf_t *conf);


#endif /* _NGX_ASANA_POSTGRES_H_INCLUDED_ */
