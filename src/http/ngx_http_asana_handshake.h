
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_HANDSHAKE_H_INCLUDED_
#define _NGX_HTTP_ASANA_HANDSHAKE_H_INCLUDED_


#include "ngx_http_asana_header.h"
#include "ngx_http_asana_request.h"


/* Decides on a POST with X-Hook-Secret; a step. */
ngx_int_t ngx_http_asana_handshake(ngx_http_asana_ctx_t *ctx,
    ngx_http_asana_header_t *h);


#endif /* _NGX_HTTP_ASANA_HANDSHAKE_H_INCLUDED_ */
