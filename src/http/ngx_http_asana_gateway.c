
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The gateway: Asana's answer to a create call names the secret that it sent
 * in the handshake.  The answer is held back until that secret is active on
 * disk, so that when the application reads it, deliveries verify.
 */


#include "ngx_http_asana_gateway.h"
#include "ngx_http_asana_call.h"
#include "ngx_http_asana_site.h"

#include "ngx_asana_json.h"


#define NGX_HTTP_ASANA_GATEWAY_MAX  65536
#define NGX_HTTP_ASANA_GATEWAY_MIN  4096

/* a bit of r->buffered that nginx leaves to its modules */
#define NGX_HTTP_ASANA_BUFFERED  0x08


typedef struct {
    ngx_http_asana_call_t         call;      /* must be first */
    ngx_http_asana_ctx_t         *ctx;
    ngx_uint_t                    log_level;

    u_char                       *start;     /* the answer so far */
    size_t                        len;
    size_t                        size;

    unsigned                      held:1;
    unsigned                      complete:1;
} ngx_http_asana_create_t;


static void ngx_http_asana_gateway_cleanup(void *data);
static ngx_http_asana_create_t *ngx_http_asana_gateway_get(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_gateway_header_filter(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_gateway_body_filter(
    ngx_http_request_t *r, ngx_chain_t *in);
static ngx_int_t ngx_http_asana_gateway_append(ngx_http_request_t *r,
    ngx_http_asana_create_t *create, ngx_buf_t *b);
static ngx_int_t ngx_http_asana_gateway_confirm(
    ngx_http_asana_create_t *create);
static ngx_asana_task_t *ngx_http_asana_gateway_task(ngx_http_asana_ctx_t *ctx,
    ngx_str_t *secret);
static ngx_int_t ngx_http_asana_gateway_outcome(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static void ngx_http_asana_gateway_refused(ngx_http_asana_create_t *create);
static void ngx_http_asana_gateway_unreadable(ngx_http_asana_create_t *create,
    const char *reason);
static void ngx_http_asana_gateway_end(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static ngx_int_t ngx_http_asana_gateway_release(ngx_http_request_t *r,
    ngx_http_asana_create_t *create, ngx_chain_t *in);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


static ngx_str_t  ngx_http_asana_gateway_member = ngx_string("X-Hook-Secret");


ngx_int_t
ngx_http_asana_gateway(ngx_http_request_t *r, ngx_http_asana_zone_conf_t *azcf)
{
    ngx_int_t                   rc;
    ngx_uint_t                  foreign;
    ngx_pool_cleanup_t         *cln;
    ngx_http_asana_ctx_t       *ctx;
    ngx_http_asana_create_t    *create;
    ngx_http_asana_loc_conf_t  *ahcf;

    foreign = ngx_http_asana_site_foreign(r);

    if (r->method != NGX_HTTP_POST && !foreign) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_asana_request_create(r, azcf, NGX_ASANA_COUNT_GATEWAY,
                                        ngx_http_asana_gateway_end);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* most of its answers are none of our business */

    ctx->state = NGX_HTTP_ASANA_DONE;
    ctx->rc = NGX_DECLINED;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    if (foreign) {
        ngx_log_error(ahcf->log_level, r->connection->log, 0,
                      "asana_hook: call refused by zone \"%V\": a browser "
                      "sends it from another site", &azcf->name);

        ctx->word = NGX_HTTP_ASANA_REFUSED;
        ctx->rc = NGX_HTTP_FORBIDDEN;

        return ctx->rc;
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_asana_create_t));
    if (cln == NULL) {
        ctx->rc = NGX_HTTP_INTERNAL_SERVER_ERROR;
        return ctx->rc;
    }

    create = cln->data;
    ngx_memzero(create, sizeof(ngx_http_asana_create_t));

    create->ctx = ctx;
    create->call.ctx = ctx;
    create->log_level = ahcf->log_level;

    cln->handler = ngx_http_asana_gateway_cleanup;
    ctx->data = create;

    rc = ngx_http_asana_call_begin(&create->call);

    if (rc != NGX_DONE) {
        ctx->rc = rc;
    }

    return rc;
}


static void
ngx_http_asana_gateway_cleanup(void *data)
{
    ngx_http_asana_create_t *create = data;

    ngx_http_asana_call_end(&create->call);

    if (create->start) {
        ngx_explicit_memzero(create->start, create->len);
    }
}


static ngx_http_asana_create_t *
ngx_http_asana_gateway_get(ngx_http_request_t *r)
{
    ngx_http_asana_ctx_t  *ctx;

    if (r != r->main || r->upstream == NULL) {
        return NULL;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    return (ctx && ctx->count == NGX_ASANA_COUNT_GATEWAY) ? ctx->data : NULL;
}


static ngx_int_t
ngx_http_asana_gateway_header_filter(ngx_http_request_t *r)
{
    ngx_http_asana_ctx_t     *ctx;
    ngx_http_asana_create_t  *create;

    if (r == r->main) {

        /* Asana has its handshake; the request may linger for long */

        ctx = ngx_http_asana_request_ctx(r);

        if (ctx && ctx->count == NGX_ASANA_COUNT_GATEWAY && ctx->data) {
            create = ctx->data;
            ngx_http_asana_call_end(&create->call);
        }
    }

    create = ngx_http_asana_gateway_get(r);

    if (create == NULL
        || r->headers_out.status != NGX_HTTP_CREATED
        || create->held)
    {
        return ngx_http_next_header_filter(r);
    }

    if (r->headers_out.content_encoding
        && r->headers_out.content_encoding->value.len)
    {
        ngx_http_asana_gateway_unreadable(create, "it is encoded; set "
                                          "\"proxy_set_header "
                                          "Accept-Encoding\" to \"\"");

        return ngx_http_next_header_filter(r);
    }

    if (r->headers_out.content_length_n > NGX_HTTP_ASANA_GATEWAY_MAX) {
        ngx_http_asana_gateway_unreadable(create, "it is larger than 64k");

        return ngx_http_next_header_filter(r);
    }

    create->held = 1;
    r->filter_need_in_memory = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_gateway_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in)
{
    ngx_buf_t                *b;
    ngx_chain_t              *cl;
    ngx_http_asana_create_t  *create;

    create = ngx_http_asana_gateway_get(r);

    if (create == NULL || !create->held) {
        return ngx_http_next_body_filter(r, in);
    }

    for (cl = in; cl && !create->complete; cl = cl->next) {
        b = cl->buf;

        switch (ngx_http_asana_gateway_append(r, create, b)) {

        case NGX_OK:
            break;

        case NGX_DECLINED:
            ngx_http_asana_gateway_unreadable(create, "it is larger than 64k");

            return ngx_http_asana_gateway_release(r, create, cl);

        default: /* NGX_ERROR */
            return NGX_ERROR;
        }

        if (b->last_buf) {
            create->complete = 1;

            if (ngx_http_asana_gateway_confirm(create) != NGX_DONE) {
                return ngx_http_asana_gateway_release(r, create, NULL);
            }
        }
    }

    if (!create->complete && r->upstream->cleanup == NULL) {

        /* the upstream has gone in the middle of its answer */

        ngx_http_asana_gateway_unreadable(create, "it was cut short");

        while (in && !ngx_buf_special(in->buf)) {
            in = in->next;
        }

        return ngx_http_asana_gateway_release(r, create, in);
    }

    r->buffered |= NGX_HTTP_ASANA_BUFFERED;

    return NGX_AGAIN;
}


/*
 * Takes over what is in the buffer, so that the upstream can use it again;
 * NGX_DECLINED if that would be too much.
 */

static ngx_int_t
ngx_http_asana_gateway_append(ngx_http_request_t *r,
    ngx_http_asana_create_t *create, ngx_buf_t *b)
{
    u_char  *p;
    size_t   n, size;

    if (!ngx_buf_in_memory(b)) {
        return NGX_OK;
    }

    n = b->last - b->pos;

    if (n > NGX_HTTP_ASANA_GATEWAY_MAX - create->len) {
        return NGX_DECLINED;
    }

    if (n == 0) {
        return NGX_OK;
    }

    if (create->len + n > create->size) {

        size = ngx_max(2 * (create->len + n), NGX_HTTP_ASANA_GATEWAY_MIN);

        p = ngx_palloc(r->pool, size);
        if (p == NULL) {
            return NGX_ERROR;
        }

        if (create->len) {
            ngx_memcpy(p, create->start, create->len);
            ngx_explicit_memzero(create->start, create->len);
        }

        create->start = p;
        create->size = size;
    }

    ngx_memcpy(create->start + create->len, b->pos, n);
    create->len += n;

    b->pos = b->last;

    if (b->in_file) {
        b->file_pos = b->file_last;
    }

    return NGX_OK;
}


/* NGX_DONE: the answer is to wait for the outcome */

static ngx_int_t
ngx_http_asana_gateway_confirm(ngx_http_asana_create_t *create)
{
    u_char                 buf[NGX_ASANA_MAX_SECRET];
    ngx_int_t              rc;
    ngx_str_t              secret;
    ngx_asana_task_t      *task;
    ngx_http_asana_ctx_t  *ctx;

    ctx = create->ctx;

    secret.len = sizeof(buf);
    secret.data = buf;

    rc = ngx_asana_json_member(create->start, create->len,
                               &ngx_http_asana_gateway_member, &secret);

    if (rc != NGX_OK
        || ngx_asana_secrets_check(secret.data, secret.len) != NGX_OK)
    {
        ngx_explicit_memzero(buf, sizeof(buf));

        ngx_http_asana_gateway_unreadable(create,
                                          "it is no JSON object with one "
                                          "member \"X-Hook-Secret\" of 16 to "
                                          "255 characters; is the upstream "
                                          "Asana's API?");
        return NGX_OK;
    }

    task = ngx_http_asana_gateway_task(ctx, &secret);

    ngx_explicit_memzero(buf, sizeof(buf));

    if (task == NULL) {
        return ngx_http_asana_gateway_outcome(ctx, NGX_ASANA_FAILED);
    }

    ngx_http_asana_request_identify(ctx, task->change.id);

    return ngx_http_asana_request_change(ctx, task,
                                         ngx_http_asana_gateway_outcome);
}


static ngx_asana_task_t *
ngx_http_asana_gateway_task(ngx_http_asana_ctx_t *ctx, ngx_str_t *secret)
{
    ngx_str_t          key;
    ngx_asana_task_t  *task;

    ngx_str_set(&key, "");

    task = ngx_asana_task_create(NGX_ASANA_CONFIRM, &key,
                                 ctx->r->connection->log);
    if (task == NULL) {
        return NULL;
    }

    ngx_asana_task_set_secret(task, secret);

    if (ngx_asana_hmac_id(secret->data, secret->len, task->change.id)
        != NGX_OK)
    {
        ngx_asana_task_free(task);
        return NULL;
    }

    return task;
}


static ngx_int_t
ngx_http_asana_gateway_outcome(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_log_t                *log;
    ngx_http_asana_word_e     word;
    ngx_http_asana_create_t  *create;

    create = ctx->data;
    log = ctx->r->connection->log;

    switch (rc) {

    case NGX_ASANA_HELD:
    case NGX_ASANA_CHANGED:
    case NGX_ASANA_ADDED:
        word = NGX_HTTP_ASANA_CONFIRMED;
        break;

    case NGX_ASANA_ABSENT:
        ngx_log_error(create->log_level, log, 0,
                      "asana_hook: the secret of a created webhook never came "
                      "to the zone \"%V\"; its target must lead to a location "
                      "with \"asana_hook %V\"", &ctx->azcf->name,
                      &ctx->azcf->name);

        word = NGX_HTTP_ASANA_UNMATCHED;
        break;

    case NGX_ASANA_REFUSED:
        ngx_http_asana_gateway_refused(create);
        word = NGX_HTTP_ASANA_REFUSED;
        break;

    default: /* NGX_ASANA_FULL, NGX_ASANA_FAILED */
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: the secret of a created webhook could not "
                      "be confirmed in the zone \"%V\"; delete the webhook and "
                      "create it again when the store can be written",
                      &ctx->azcf->name);

        word = NGX_HTTP_ASANA_ERROR;
    }

    return ngx_http_asana_request_finish(ctx, word, NGX_DECLINED, NULL);
}


static void
ngx_http_asana_gateway_refused(ngx_http_asana_create_t *create)
{
    u_char                 buf[3 * NGX_ASANA_MAX_KEY];
    ngx_str_t              name;
    const char            *ref;
    ngx_http_asana_ctx_t  *ctx;

    ctx = create->ctx;

    ref = ngx_http_asana_word_name(&ctx->changed->key, &name, buf);

    ngx_log_error(create->log_level, ctx->r->connection->log, 0,
                  "asana_hook: the secret of a create call was refused by "
                  "zone \"%V\": the key \"%s%V\" has as many active secrets "
                  "as \"max_secrets\" allows; \"asana-hook revoke %s%V\" "
                  "revokes them, with an id one of them; then delete the "
                  "webhook and create it again",
                  &ctx->azcf->name, ref, &name, ref, &name);
}


static void
ngx_http_asana_gateway_unreadable(ngx_http_asana_create_t *create,
    const char *reason)
{
    ngx_http_asana_ctx_t  *ctx;

    ctx = create->ctx;

    ngx_log_error(create->log_level, ctx->r->connection->log, 0,
                  "asana_hook: the answer to a create call cannot be read by "
                  "the zone \"%V\": %s", &ctx->azcf->name, reason);

    (void) ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_UNREADABLE,
                                         NGX_DECLINED, NULL);
}


/* sent here: a filter before ours may not call it without new data */

static void
ngx_http_asana_gateway_end(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_http_request_t  *r;

    r = ctx->r;

    if (ngx_http_get_module_ctx(r, ngx_http_asana_hook_module) != ctx) {

        /* "post_action" has the request, and the answer has no reader */

        r->buffered &= ~NGX_HTTP_ASANA_BUFFERED;

    } else if (ngx_http_asana_gateway_release(r, ctx->data, NULL) == NGX_ERROR)
    {
        r->connection->error = 1;
    }

    r->write_event_handler(r);
}


/* sends what was held back, and what comes behind it */

static ngx_int_t
ngx_http_asana_gateway_release(ngx_http_request_t *r,
    ngx_http_asana_create_t *create, ngx_chain_t *in)
{
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t   out;

    create->held = 0;
    r->buffered &= ~NGX_HTTP_ASANA_BUFFERED;

    rc = ngx_http_next_header_filter(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    if (create->len == 0 && !create->complete) {
        return ngx_http_next_body_filter(r, in);
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    if (create->len) {
        b->start = create->start;
        b->pos = create->start;
        b->last = create->start + create->len;
        b->end = b->last;
        b->memory = 1;
    }

    b->last_buf = create->complete;
    b->last_in_chain = (in == NULL);

    out.buf = b;
    out.next = in;

    return ngx_http_next_body_filter(r, &out);
}


void
ngx_http_asana_gateway_init(void)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_asana_gateway_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_asana_gateway_body_filter;
}
