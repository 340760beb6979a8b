
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_API_H_INCLUDED_
#define _NGX_HTTP_ASANA_API_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/* The content handler of "asana_hook_api". */
ngx_int_t ngx_http_asana_api_handler(ngx_http_request_t *r);


#endif /* _NGX_HTTP_ASANA_API_H_INCLUDED_ */
