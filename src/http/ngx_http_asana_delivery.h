
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_DELIVERY_H_INCLUDED_
#define _NGX_HTTP_ASANA_DELIVERY_H_INCLUDED_


#include "ngx_http_asana_header.h"
#include "ngx_http_asana_request.h"


/* Decides on what must be signed; a step. */
ngx_int_t ngx_http_asana_delivery(ngx_http_asana_ctx_t *ctx,
    ngx_http_asana_header_t *h);

/* What a verified delivery becomes in its location. */
ngx_int_t ngx_http_asana_delivery_pass(ngx_http_asana_ctx_t *ctx);


#endif /* _NGX_HTTP_ASANA_DELIVERY_H_INCLUDED_ */
