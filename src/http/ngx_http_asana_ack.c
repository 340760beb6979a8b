
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Asana takes 200 and 204 for success, sends everything else again for 24
 * hours, and may delete a webhook at a 410.  An application that answers a
 * verified delivery with another 2xx has taken it.
 */


#include "ngx_http_asana_ack.h"
#include "ngx_http_asana_request.h"


/* nginx 1.22 has no name for it */
#define NGX_HTTP_ASANA_GONE  410


static ngx_int_t ngx_http_asana_ack_header_filter(ngx_http_request_t *r);
static ngx_uint_t ngx_http_asana_ack_wanted(ngx_http_asana_ctx_t *ctx);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;


static ngx_int_t
ngx_http_asana_ack_header_filter(ngx_http_request_t *r)
{
    ngx_uint_t             status;
    ngx_http_asana_ctx_t  *ctx;

    ctx = (r == r->main) ? ngx_http_asana_request_ctx(r) : NULL;

    if (ctx == NULL) {
        return ngx_http_next_header_filter(r);
    }

    if (r->connection->read->pending_eof
        && r->http_version < NGX_HTTP_VERSION_20)
    {
        /* what a socket takes is no answer if nobody reads it */

        ctx->left = 1;
    }

    status = r->headers_out.status;

    if (status > NGX_HTTP_OK && status != NGX_HTTP_NO_CONTENT
        && (status < NGX_HTTP_SPECIAL_RESPONSE
            || status == NGX_HTTP_ASANA_GONE)
        && ngx_http_asana_ack_wanted(ctx))
    {
        status = (status == NGX_HTTP_ASANA_GONE)
                 ? NGX_HTTP_SERVICE_UNAVAILABLE : NGX_HTTP_OK;

        r->headers_out.status = status;
        r->headers_out.status_line.len = 0;
    }

    /* "post_action" may set another one, which nobody gets */

    ctx->verified.code = (uint16_t) status;

    return ngx_http_next_header_filter(r);
}


static ngx_uint_t
ngx_http_asana_ack_wanted(ngx_http_asana_ctx_t *ctx)
{
    ngx_http_asana_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(ctx->r, ngx_http_asana_hook_module);

    return ahcf->ack
           && (ctx->word == NGX_HTTP_ASANA_VERIFIED
               || ctx->word == NGX_HTTP_ASANA_HEARTBEAT);
}


void
ngx_http_asana_ack_init(void)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_asana_ack_header_filter;
}
