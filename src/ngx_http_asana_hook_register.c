
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The gateway: Asana's answer to a create call names the secret that it sent
 * in the handshake.  The answer is held back until that secret is active on
 * disk, so that when the application reads it, deliveries verify.
 */


#include "ngx_http_asana_hook.h"


#define NGX_HTTP_ASANA_HOOK_BODY_MAX  65536
#define NGX_HTTP_ASANA_HOOK_BODY_MIN  4096

/* a bit of r->buffered that nginx leaves to its modules */
#define NGX_HTTP_ASANA_HOOK_BUFFERED  0x08


typedef struct {
    ngx_http_request_t            *r;
    ngx_http_asana_hook_zone_t    *zone;
    ngx_http_asana_hook_op_t      *op;       /* under way */

    u_char                        *start;    /* the answer so far */
    size_t                         len;
    size_t                         size;

    unsigned                       counted:1;  /* as in flight */
    unsigned                       held:1;
    unsigned                       complete:1;
} ngx_http_asana_hook_create_t;


static void ngx_http_asana_hook_register_cleanup(void *data);
static void ngx_http_asana_hook_register_end(
    ngx_http_asana_hook_create_t *create);
static ngx_http_asana_hook_create_t *ngx_http_asana_hook_register_get(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_hook_register_header_filter(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_hook_register_body_filter(
    ngx_http_request_t *r, ngx_chain_t *in);
static ngx_int_t ngx_http_asana_hook_register_append(ngx_http_request_t *r,
    ngx_http_asana_hook_create_t *create, ngx_buf_t *b);
static ngx_int_t ngx_http_asana_hook_register_activate(ngx_http_request_t *r,
    ngx_http_asana_hook_create_t *create);
static void ngx_http_asana_hook_register_handler(ngx_http_asana_hook_op_t *op);
static void ngx_http_asana_hook_register_outcome(ngx_http_request_t *r,
    ngx_http_asana_hook_create_t *create, ngx_http_asana_hook_op_t *op);
static void ngx_http_asana_hook_register_malformed(ngx_http_request_t *r,
    const char *reason);
static void ngx_http_asana_hook_register_word(ngx_http_request_t *r,
    ngx_http_asana_hook_status_e status);
static ngx_int_t ngx_http_asana_hook_register_release(ngx_http_request_t *r,
    ngx_http_asana_hook_create_t *create, ngx_chain_t *in);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


static ngx_str_t  ngx_http_asana_hook_member = ngx_string("X-Hook-Secret");


ngx_int_t
ngx_http_asana_hook_register(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx)
{
    ngx_pool_cleanup_t            *cln;
    ngx_http_asana_hook_create_t  *create;

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_asana_hook_create_t));
    if (cln == NULL) {
        return NGX_ERROR;
    }

    create = cln->data;
    ngx_memzero(create, sizeof(ngx_http_asana_hook_create_t));

    create->r = r;
    create->zone = ctx->zone;

    cln->handler = ngx_http_asana_hook_register_cleanup;

    ctx->create = create;

    create->counted = 1;
    ngx_http_asana_hook_zone_create_begin(ctx->zone);

    return NGX_OK;
}


static void
ngx_http_asana_hook_register_cleanup(void *data)
{
    ngx_http_asana_hook_create_t *create = data;

    ngx_http_asana_hook_register_end(create);

    if (create->op) {
        create->op->data = NULL;
    }

    if (create->start) {
        ngx_explicit_memzero(create->start, create->len);
    }
}


static void
ngx_http_asana_hook_register_end(ngx_http_asana_hook_create_t *create)
{
    if (create->counted) {
        create->counted = 0;
        ngx_http_asana_hook_zone_create_end(create->zone);
    }
}


static ngx_http_asana_hook_create_t *
ngx_http_asana_hook_register_get(ngx_http_request_t *r)
{
    ngx_http_asana_hook_ctx_t  *ctx;

    if (r != r->main || r->upstream == NULL) {
        return NULL;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    return ctx ? ctx->create : NULL;
}


static ngx_int_t
ngx_http_asana_hook_register_header_filter(ngx_http_request_t *r)
{
    ngx_http_asana_hook_ctx_t     *ctx;
    ngx_http_asana_hook_create_t  *create;

    if (r == r->main) {

        /* Asana has its handshake; the request may linger for long */

        ctx = ngx_http_asana_hook_get_ctx(r);

        if (ctx && ctx->create) {
            ngx_http_asana_hook_register_end(ctx->create);
        }
    }

    create = ngx_http_asana_hook_register_get(r);

    if (create == NULL
        || r->headers_out.status != NGX_HTTP_CREATED
        || create->held)
    {
        return ngx_http_next_header_filter(r);
    }

    if (r->headers_out.content_encoding
        && r->headers_out.content_encoding->value.len)
    {
        ngx_http_asana_hook_register_malformed(r,
                                     "it is encoded; set "
                                     "\"proxy_set_header Accept-Encoding\" "
                                     "to \"\"");

        return ngx_http_next_header_filter(r);
    }

    if (r->headers_out.content_length_n > NGX_HTTP_ASANA_HOOK_BODY_MAX) {
        ngx_http_asana_hook_register_malformed(r, "it is larger than 64k");

        return ngx_http_next_header_filter(r);
    }

    create->held = 1;
    r->filter_need_in_memory = 1;

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hook_register_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in)
{
    ngx_buf_t                     *b;
    ngx_chain_t                   *cl;
    ngx_http_asana_hook_create_t  *create;

    create = ngx_http_asana_hook_register_get(r);

    if (create == NULL || !create->held) {
        return ngx_http_next_body_filter(r, in);
    }

    for (cl = in; cl && !create->complete; cl = cl->next) {
        b = cl->buf;

        switch (ngx_http_asana_hook_register_append(r, create, b)) {

        case NGX_OK:
            break;

        case NGX_DECLINED:
            ngx_http_asana_hook_register_malformed(r, "it is larger than 64k");

            return ngx_http_asana_hook_register_release(r, create, cl);

        default: /* NGX_ERROR */
            return NGX_ERROR;
        }

        if (b->last_buf) {
            create->complete = 1;

            if (ngx_http_asana_hook_register_activate(r, create) != NGX_AGAIN)
            {
                return ngx_http_asana_hook_register_release(r, create, NULL);
            }
        }
    }

    if (create->complete && create->op == NULL) {
        return ngx_http_asana_hook_register_release(r, create, NULL);
    }

    if (!create->complete && r->upstream->cleanup == NULL) {

        /* the upstream has gone in the middle of its answer */

        ngx_http_asana_hook_register_malformed(r, "it was cut short");

        while (in && !ngx_buf_special(in->buf)) {
            in = in->next;
        }

        return ngx_http_asana_hook_register_release(r, create, in);
    }

    r->buffered |= NGX_HTTP_ASANA_HOOK_BUFFERED;

    return NGX_AGAIN;
}


/*
 * Takes over what is in the buffer, so that the upstream can use it again;
 * NGX_DECLINED if that would be too much.
 */

static ngx_int_t
ngx_http_asana_hook_register_append(ngx_http_request_t *r,
    ngx_http_asana_hook_create_t *create, ngx_buf_t *b)
{
    u_char  *p;
    size_t   n, size;

    if (!ngx_buf_in_memory(b)) {
        return NGX_OK;
    }

    n = b->last - b->pos;

    if (n > NGX_HTTP_ASANA_HOOK_BODY_MAX - create->len) {
        return NGX_DECLINED;
    }

    if (n == 0) {
        return NGX_OK;
    }

    if (create->len + n > create->size) {

        size = ngx_max(2 * (create->len + n), NGX_HTTP_ASANA_HOOK_BODY_MIN);

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


/* NGX_AGAIN: the answer is to wait for the outcome */

static ngx_int_t
ngx_http_asana_hook_register_activate(ngx_http_request_t *r,
    ngx_http_asana_hook_create_t *create)
{
    u_char                     buf[NGX_HTTP_ASANA_HOOK_MAX_SECRET];
    ngx_int_t                  rc;
    ngx_str_t                  secret, key;
    ngx_http_asana_hook_op_t  *op;

    secret.len = NGX_HTTP_ASANA_HOOK_MAX_SECRET;
    secret.data = buf;

    rc = create->len
         ? ngx_http_asana_hook_json_member(create->start, create->len,
                                           &ngx_http_asana_hook_member,
                                           &secret)
         : NGX_ERROR;

    if (rc != NGX_OK || !ngx_http_asana_hook_secret_valid(&secret)) {
        ngx_explicit_memzero(buf, sizeof(buf));
        ngx_http_asana_hook_register_malformed(r,
                                     "it is no JSON object with one member "
                                     "\"X-Hook-Secret\" of 16 to 255 "
                                     "characters; is the upstream Asana's "
                                     "API?");
        return NGX_DECLINED;
    }

    ngx_str_null(&key);

    op = ngx_http_asana_hook_zone_op(create->zone,
                                     NGX_HTTP_ASANA_HOOK_ACTIVATE, &key, NULL,
                                     r->connection->log);

    if (op == NULL
        || ngx_http_asana_hook_secret_id(secret.data, secret.len, op->id)
           != NGX_OK)
    {
        ngx_explicit_memzero(buf, sizeof(buf));

        if (op) {
            ngx_http_asana_hook_op_free(op);
        }

        ngx_http_asana_hook_register_outcome(r, create, NULL);

        return NGX_ERROR;
    }

    op->secret_len = secret.len;
    ngx_memcpy(op->secret, secret.data, secret.len);

    ngx_explicit_memzero(buf, sizeof(buf));

    op->data = create;
    op->handler = ngx_http_asana_hook_register_handler;

    if (ngx_http_asana_hook_store_post(create->zone->store, op) == NGX_AGAIN) {
        create->op = op;
        return NGX_AGAIN;
    }

    ngx_http_asana_hook_register_outcome(r, create, op);
    ngx_http_asana_hook_op_free(op);

    return NGX_OK;
}


static void
ngx_http_asana_hook_register_handler(ngx_http_asana_hook_op_t *op)
{
    ngx_connection_t              *c;
    ngx_http_request_t            *r;
    ngx_http_asana_hook_create_t  *create;

    create = op->data;

    if (create == NULL) {
        ngx_http_asana_hook_op_free(op);
        return;
    }

    r = create->r;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    create->op = NULL;

    ngx_http_asana_hook_register_outcome(r, create, op);
    ngx_http_asana_hook_op_free(op);

    /* calls the filter again */

    r->write_event_handler(r);

    ngx_http_run_posted_requests(c);
}


static void
ngx_http_asana_hook_register_outcome(ngx_http_request_t *r,
    ngx_http_asana_hook_create_t *create, ngx_http_asana_hook_op_t *op)
{
    ngx_http_asana_hook_ctx_t       *ctx;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);
    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    if (op) {
        ngx_http_asana_hook_identify(ctx, op->id);
    }

    switch (op ? op->rc : NGX_ERROR) {

    case NGX_OK:
        ngx_http_asana_hook_register_word(r, NGX_HTTP_ASANA_HOOK_REGISTERED);
        return;

    case NGX_DECLINED:
        ngx_log_error(ahcf->log_level, r->connection->log, 0,
                      "asana_hook: the secret of a created webhook never came "
                      "to the zone \"%V\"; its target must lead to a location "
                      "with \"asana_hook %V\"", &create->zone->name,
                      &create->zone->name);

        ngx_http_asana_hook_register_word(r, NGX_HTTP_ASANA_HOOK_UNKNOWN);
        return;

    default: /* NGX_BUSY, NGX_ERROR */
        ngx_log_error(NGX_LOG_CRIT, r->connection->log, 0,
                      "asana_hook: the secret of a created webhook could not "
                      "be confirmed in the zone \"%V\"; delete the webhook and "
                      "create it again when the store can be written",
                      &create->zone->name);

        ngx_http_asana_hook_register_word(r, NGX_HTTP_ASANA_HOOK_ERROR);
    }
}


static void
ngx_http_asana_hook_register_malformed(ngx_http_request_t *r,
    const char *reason)
{
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    ngx_log_error(ahcf->log_level, r->connection->log, 0,
                  "asana_hook: the answer to a create call cannot be read by "
                  "the zone \"%V\": %s",
                  &((ngx_http_asana_hook_zone_t *) ahcf->gateway->data)->name,
                  reason);

    ngx_http_asana_hook_register_word(r, NGX_HTTP_ASANA_HOOK_MALFORMED);
}


static void
ngx_http_asana_hook_register_word(ngx_http_request_t *r,
    ngx_http_asana_hook_status_e status)
{
    ngx_http_asana_hook_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    ctx->status = status;
    ngx_http_asana_hook_count(ctx);
}


/* sends what was held back, and what comes behind it */

static ngx_int_t
ngx_http_asana_hook_register_release(ngx_http_request_t *r,
    ngx_http_asana_hook_create_t *create, ngx_chain_t *in)
{
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t   out;

    create->held = 0;
    r->buffered &= ~NGX_HTTP_ASANA_HOOK_BUFFERED;

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
ngx_http_asana_hook_register_init(void)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_asana_hook_register_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_asana_hook_register_body_filter;
}
