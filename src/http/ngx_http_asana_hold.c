
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Holds an answer of Asana back until what it says is durable here.
 */


#include "ngx_http_asana_hold.h"


#define NGX_HTTP_ASANA_HOLD_MAX  65536
#define NGX_HTTP_ASANA_HOLD_MIN  4096

/* a bit of r->buffered that nginx leaves to its modules */
#define NGX_HTTP_ASANA_BUFFERED  0x08


static void ngx_http_asana_hold_cleanup(void *data);
static void ngx_http_asana_hold_answered(ngx_http_asana_hold_t *hold);
static ngx_http_asana_hold_t *ngx_http_asana_hold_get(ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_hold_header_filter(ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_hold_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);
static ngx_int_t ngx_http_asana_hold_append(ngx_http_request_t *r,
    ngx_http_asana_hold_t *hold, ngx_buf_t *b);
static ngx_int_t ngx_http_asana_hold_release(ngx_http_request_t *r,
    ngx_http_asana_hold_t *hold, ngx_chain_t *in);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


ngx_http_asana_hold_t *
ngx_http_asana_hold_create(ngx_http_asana_ctx_t *ctx)
{
    ngx_pool_cleanup_t         *cln;
    ngx_http_asana_hold_t      *hold;
    ngx_http_asana_loc_conf_t  *ahcf;

    cln = ngx_pool_cleanup_add(ctx->r->pool, sizeof(ngx_http_asana_hold_t));
    if (cln == NULL) {
        return NULL;
    }

    hold = cln->data;
    ngx_memzero(hold, sizeof(ngx_http_asana_hold_t));

    ahcf = ngx_http_get_module_loc_conf(ctx->r, ngx_http_asana_hook_module);

    hold->ctx = ctx;
    hold->log_level = ahcf->log_level;

    cln->handler = ngx_http_asana_hold_cleanup;
    ctx->data = hold;

    return hold;
}


static void
ngx_http_asana_hold_cleanup(void *data)
{
    ngx_http_asana_hold_t *hold = data;

    ngx_http_asana_hold_answered(hold);

    if (hold->start) {
        ngx_explicit_memzero(hold->start, hold->len);
    }
}


/* a create call is in flight no more */

static void
ngx_http_asana_hold_answered(ngx_http_asana_hold_t *hold)
{
    if (hold->call.ctx) {
        ngx_http_asana_call_end(&hold->call);
    }
}


static ngx_http_asana_hold_t *
ngx_http_asana_hold_get(ngx_http_request_t *r)
{
    ngx_http_asana_ctx_t  *ctx;

    if (r != r->main || r->upstream == NULL) {
        return NULL;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    return (ctx && ctx->count == NGX_ASANA_COUNT_GATEWAY) ? ctx->data : NULL;
}


static ngx_int_t
ngx_http_asana_hold_header_filter(ngx_http_request_t *r)
{
    ngx_http_asana_ctx_t   *ctx;
    ngx_http_asana_hold_t  *hold;

    if (r == r->main) {

        /* Asana has its handshake; the request may linger for long */

        ctx = ngx_http_asana_request_ctx(r);

        if (ctx && ctx->count == NGX_ASANA_COUNT_GATEWAY && ctx->data) {
            hold = ctx->data;
            ngx_http_asana_hold_answered(hold);
        }
    }

    hold = ngx_http_asana_hold_get(r);

    if (hold == NULL
        || r->headers_out.status != hold->status
        || hold->held)
    {
        return ngx_http_next_header_filter(r);
    }

    if (hold->reads
        && r->headers_out.content_encoding
        && r->headers_out.content_encoding->value.len)
    {
        ngx_http_asana_hold_unreadable(hold, "it is encoded; set "
                                       "\"proxy_set_header "
                                       "Accept-Encoding\" to \"\"");

        return ngx_http_next_header_filter(r);
    }

    if (r->headers_out.content_length_n > NGX_HTTP_ASANA_HOLD_MAX) {
        ngx_http_asana_hold_unreadable(hold, "it is larger than 64k");

        return ngx_http_next_header_filter(r);
    }

    hold->held = 1;
    r->filter_need_in_memory = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hold_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_buf_t              *b;
    ngx_chain_t            *cl;
    ngx_http_asana_hold_t  *hold;

    hold = ngx_http_asana_hold_get(r);

    if (hold == NULL || !hold->held) {
        return ngx_http_next_body_filter(r, in);
    }

    for (cl = in; cl && !hold->complete; cl = cl->next) {
        b = cl->buf;

        switch (ngx_http_asana_hold_append(r, hold, b)) {

        case NGX_OK:
            break;

        case NGX_DECLINED:
            ngx_http_asana_hold_unreadable(hold, "it is larger than 64k");

            return ngx_http_asana_hold_release(r, hold, cl);

        default: /* NGX_ERROR */
            return NGX_ERROR;
        }

        if (b->last_buf) {
            hold->complete = 1;

            if (hold->whole(hold) != NGX_DONE) {
                return ngx_http_asana_hold_release(r, hold, NULL);
            }
        }
    }

    if (!hold->complete && r->upstream->cleanup == NULL) {

        /* the upstream has gone in the middle of its answer */

        ngx_http_asana_hold_unreadable(hold, "it was cut short");

        while (in && !ngx_buf_special(in->buf)) {
            in = in->next;
        }

        return ngx_http_asana_hold_release(r, hold, in);
    }

    r->buffered |= NGX_HTTP_ASANA_BUFFERED;

    return NGX_AGAIN;
}


/*
 * Takes over what is in the buffer, so that the upstream can use it again;
 * NGX_DECLINED if that would be too much.
 */

static ngx_int_t
ngx_http_asana_hold_append(ngx_http_request_t *r, ngx_http_asana_hold_t *hold,
    ngx_buf_t *b)
{
    u_char  *p;
    size_t   n, size;

    if (!ngx_buf_in_memory(b)) {
        return NGX_OK;
    }

    n = b->last - b->pos;

    if (n > NGX_HTTP_ASANA_HOLD_MAX - hold->len) {
        return NGX_DECLINED;
    }

    if (n == 0) {
        return NGX_OK;
    }

    if (hold->len + n > hold->size) {

        size = ngx_max(2 * (hold->len + n), NGX_HTTP_ASANA_HOLD_MIN);

        p = ngx_palloc(r->pool, size);
        if (p == NULL) {
            return NGX_ERROR;
        }

        if (hold->len) {
            ngx_memcpy(p, hold->start, hold->len);
            ngx_explicit_memzero(hold->start, hold->len);
        }

        hold->start = p;
        hold->size = size;
    }

    ngx_memcpy(hold->start + hold->len, b->pos, n);
    hold->len += n;

    b->pos = b->last;

    if (b->in_file) {
        b->file_pos = b->file_last;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_asana_hold_gid(u_char *text, size_t len)
{
    size_t  i;

    if (len == 0 || len > NGX_ASANA_MAX_GID) {
        return NGX_DECLINED;
    }

    for (i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return NGX_DECLINED;
        }
    }

    return NGX_OK;
}


void
ngx_http_asana_hold_unreadable(ngx_http_asana_hold_t *hold, const char *reason)
{
    ngx_http_asana_ctx_t  *ctx;

    ctx = hold->ctx;
    ctx->cause = reason;

    ngx_log_error(hold->log_level, ctx->r->connection->log, 0,
                  "asana_hook: the answer to a %s call cannot be read by the "
                  "zone \"%V\": %s", hold->reads ? "create" : "DELETE",
                  &ctx->azcf->name, reason);

    (void) ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_UNREADABLE,
                                         NGX_DECLINED, NULL);
}


/* sent here: a filter before ours may not call it without new data */

void
ngx_http_asana_hold_end(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_http_request_t  *r;

    r = ctx->r;

    if (ngx_http_get_module_ctx(r, ngx_http_asana_hook_module) != ctx) {

        /* "post_action" has the request, and the answer has no reader */

        r->buffered &= ~NGX_HTTP_ASANA_BUFFERED;

    } else if (ngx_http_asana_hold_release(r, ctx->data, NULL) == NGX_ERROR) {
        r->connection->error = 1;
    }

    r->write_event_handler(r);
}


/* sends what was held back, and what comes behind it */

static ngx_int_t
ngx_http_asana_hold_release(ngx_http_request_t *r,
    ngx_http_asana_hold_t *hold, ngx_chain_t *in)
{
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t   out;

    hold->held = 0;
    r->buffered &= ~NGX_HTTP_ASANA_BUFFERED;

    rc = ngx_http_next_header_filter(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    if (hold->len == 0 && !hold->complete) {
        return ngx_http_next_body_filter(r, in);
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    if (hold->len) {
        b->start = hold->start;
        b->pos = hold->start;
        b->last = hold->start + hold->len;
        b->end = b->last;
        b->memory = 1;
    }

    b->last_buf = hold->complete;
    b->last_in_chain = (in == NULL);

    out.buf = b;
    out.next = in;

    return ngx_http_next_body_filter(r, &out);
}


void
ngx_http_asana_hold_init(void)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_asana_hold_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_asana_hold_body_filter;
}
