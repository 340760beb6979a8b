
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_HANDLER_H_INCLUDED_
#define _NGX_HTTP_ASANA_HANDLER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/*
 * The handler of the POST_READ phase: takes the status word that a client
 * claims out of the request, in every server.
 */
ngx_int_t ngx_http_asana_handler_post_read(ngx_http_request_t *r);

/* The handler of the PRECONTENT phase: decides on the request. */
ngx_int_t ngx_http_asana_handler(ngx_http_request_t *r);


#endif /* _NGX_HTTP_ASANA_HANDLER_H_INCLUDED_ */
