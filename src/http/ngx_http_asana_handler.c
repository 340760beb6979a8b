
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_api.h"
#include "ngx_http_asana_delivery.h"
#include "ngx_http_asana_gateway.h"
#include "ngx_http_asana_handler.h"
#include "ngx_http_asana_handshake.h"


static ngx_int_t ngx_http_asana_handler_decide(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf);
static ngx_uint_t ngx_http_asana_handler_unchecked(ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_handler_answer(ngx_http_request_t *r);


ngx_int_t
ngx_http_asana_handler_post_read(ngx_http_request_t *r)
{
    if (ngx_http_asana_header_hide(r, &ngx_http_asana_header_status)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_DECLINED;
}


ngx_int_t
ngx_http_asana_handler(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_str_t                   word;
    ngx_http_asana_ctx_t       *ctx;
    ngx_http_asana_loc_conf_t  *ahcf;

    /*
     * The word is the verdict of one location.  What nginx could not read as
     * a request comes here by "error_page" without the POST_READ phase.
     */

    if ((r->internal || r != r->main)
        && ngx_http_asana_handler_post_read(r) != NGX_DECLINED)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (r != r->main) {
        return NGX_DECLINED;
    }

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    /* the operator's requests are no deliveries */

    if ((ahcf->hook == NULL && ahcf->gateway == NULL)
        || r->content_handler == ngx_http_asana_api_handler)
    {
        return NGX_DECLINED;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    if (ctx) {
        rc = (ctx->state == NGX_HTTP_ASANA_DONE) ? ctx->rc : NGX_DONE;

    } else if (ahcf->gateway) {
        rc = ngx_http_asana_gateway(r, ahcf->gateway->data);

    } else {
        rc = ngx_http_asana_handler_decide(r, ahcf->hook->data);
    }

    if (rc == NGX_OK) {

        /* "mirror" and "try_files" come later in this phase, and are skipped */
        r->content_handler = ngx_http_asana_handler_answer;
    }

    if (rc != NGX_DECLINED || ahcf->gateway) {
        return rc;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    ngx_http_asana_request_word(ctx, &word);

    if (ngx_http_asana_header_set(r, &word) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_DECLINED;
}


/*
 * What an internal redirect brings is judged anew, or "error_page" would be a
 * way around the signature.  Only a delivery that was verified stays so in its
 * zone: its application has it, under another URI.
 */

static ngx_int_t
ngx_http_asana_handler_decide(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf)
{
    ngx_http_asana_ctx_t     *ctx, *last;
    ngx_http_asana_header_t   h;

    last = ngx_http_asana_request_ctx(r);

    if (last
        && last->azcf == azcf
        && (last->word == NGX_HTTP_ASANA_VERIFIED
            || last->word == NGX_HTTP_ASANA_HEARTBEAT))
    {
        ngx_http_set_ctx(r, last, ngx_http_asana_hook_module);
        last->rc = ngx_http_asana_delivery_pass(last);
        return last->rc;
    }

    /* by "error_page" or "post_action"; what came of its body is no body */

    if (last
        && (last->state == NGX_HTTP_ASANA_BODY
            || last->word == NGX_HTTP_ASANA_ABORTED))
    {
        return ngx_max((ngx_int_t) r->err_status, NGX_HTTP_BAD_REQUEST);
    }

    ngx_http_asana_header_read(r, &h);

    ctx = ngx_http_asana_request_create(r, azcf,
                               (r->method == NGX_HTTP_POST && h.secrets)
                               ? NGX_ASANA_COUNT_HANDSHAKES
                               : NGX_ASANA_COUNT_DELIVERIES,
                               ngx_http_asana_request_phases);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ctx->count == NGX_ASANA_COUNT_HANDSHAKES) {
        return ngx_http_asana_handshake(ctx, &h);
    }

    if (ngx_http_asana_handler_unchecked(r)) {
        ctx->counted = 1;
        return ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_UNCHECKED,
                                             NGX_DECLINED, NULL);
    }

    return ngx_http_asana_delivery(ctx, &h);
}


/* a body over HTTP/2 and HTTP/3 may come without a length: "chunked" */

static ngx_uint_t
ngx_http_asana_handler_unchecked(ngx_http_request_t *r)
{
    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD|NGX_HTTP_OPTIONS
                       |NGX_HTTP_TRACE)))
    {
        return 0;
    }

    return r->headers_in.content_length_n <= 0 && !r->headers_in.chunked;
}


/* a content handler: an empty 200, with the secret for a handshake */

static ngx_int_t
ngx_http_asana_handler_answer(ngx_http_request_t *r)
{
    ngx_int_t              rc;
    ngx_http_asana_ctx_t  *ctx;

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    if (ctx->word == NGX_HTTP_ASANA_HANDSHAKE) {
        if (ngx_http_asana_header_add(r, "X-Hook-Secret", &ctx->secret)
            != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = 0;

    /* "If-Match" must not make a 412 of a secret that is stored */
    r->disable_not_modified = 1;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_send_special(r, NGX_HTTP_LAST);
}
