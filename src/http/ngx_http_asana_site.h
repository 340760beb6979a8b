
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_SITE_H_INCLUDED_
#define _NGX_HTTP_ASANA_SITE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/*
 * Whether the request is a write that a browser sends from another site, or
 * from where cannot be understood.
 */
ngx_uint_t ngx_http_asana_site_foreign(ngx_http_request_t *r);


#endif /* _NGX_HTTP_ASANA_SITE_H_INCLUDED_ */
