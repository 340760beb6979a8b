
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
static ngx_uint_t ngx_http_asana_ack_wanted(ngx_http_request_t *r);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;


static ngx_int_t
ngx_http_asana_ack_header_filter(ngx_http_request_t *r)
{
    ngx_uint_t             status;
    ngx_http_asana_ctx_t  *ctx;

    if (r->connection->read->pending_eof
        && r->http_version < NGX_HTTP_VERSION_20
        && r == r->main)
    {
        /* what a socket takes is no answer if nobody reads it */

        ctx = ngx_http_asana_request_ctx(r);

        if (ctx) {
            ctx->left = 1;
        }
    }

    status = r->headers_out.status;

    if (status <= NGX_HTTP_OK || status == NGX_HTTP_NO_CONTENT
        || (status >= NGX_HTTP_SPECIAL_RESPONSE
            && status != NGX_HTTP_ASANA_GONE)
        || r != r->main
        || !ngx_http_asana_ack_wanted(r))
    {
        return ngx_http_next_header_filter(r);
    }

    r->headers_out.status = (status == NGX_HTTP_ASANA_GONE)
                            ? NGX_HTTP_SERVICE_UNAVAILABLE : NGX_HTTP_OK;
    r->headers_out.status_line.len = 0;

    return ngx_http_next_header_filter(r);
}


static ngx_uint_t
ngx_http_asana_ack_wanted(ngx_http_request_t *r)
{
    ngx_http_asana_ctx_t       *ctx;
    ngx_http_asana_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    if (!ahcf->ack) {
        return 0;
    }

    ctx = ngx_http_asana_request_ctx(r);

    return ctx && (ctx->word == NGX_HTTP_ASANA_VERIFIED
                   || ctx->word == NGX_HTTP_ASANA_HEARTBEAT);
}


void
ngx_http_asana_ack_init(void)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_asana_ack_header_filter;
}
