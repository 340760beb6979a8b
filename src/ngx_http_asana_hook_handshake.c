
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_hook.h"

#include <openssl/crypto.h>


static ngx_int_t ngx_http_asana_hook_enroll_policy(ngx_http_request_t *r,
    ngx_http_asana_hook_policy_e *policy);
static ngx_int_t ngx_http_asana_hook_enroll(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_policy_e policy);
static void ngx_http_asana_hook_enroll_handler(ngx_http_asana_hook_op_t *op);
static ngx_uint_t ngx_http_asana_hook_active(ngx_http_asana_hook_ctx_t *ctx);
static ngx_int_t ngx_http_asana_hook_enrolled(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_policy_e policy,
    ngx_int_t rc);


static ngx_conf_enum_t  ngx_http_asana_hook_policies[] = {
    { ngx_string("first"), NGX_HTTP_ASANA_HOOK_FIRST },
    { ngx_string("open"), NGX_HTTP_ASANA_HOOK_OPEN },
    { ngx_string("confirm"), NGX_HTTP_ASANA_HOOK_CONFIRM },
    { ngx_string("register"), NGX_HTTP_ASANA_HOOK_REGISTER },
    { ngx_string("off"), NGX_HTTP_ASANA_HOOK_OFF },
    { ngx_null_string, 0 }
};


ngx_int_t
ngx_http_asana_hook_handshake(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_headers_t *h)
{
    const char                    *reason;
    ngx_int_t                      rc;
    ngx_uint_t                     i;
    ngx_http_asana_hook_secret_t  *s;
    ngx_http_asana_hook_policy_e   policy;

    if (h->signatures) {
        reason = "it also carries \"X-Hook-Signature\"";

    } else if (h->secrets > 1) {
        reason = "it carries \"X-Hook-Secret\" more than once";

    } else if (!ngx_http_asana_hook_secret_valid(&h->secret)) {
        reason = "\"X-Hook-Secret\" is not 16 to 255 visible ASCII characters";

    } else {
        ctx->status = NGX_HTTP_ASANA_HOOK_ERROR;

        rc = ngx_http_asana_hook_key(r, ctx);

        if (rc == NGX_ERROR) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        reason = (rc == NGX_OK) ? NULL
                                : "its key is empty or longer than 480 bytes";
    }

    if (reason) {
        (void) ngx_http_asana_hook_reject(r, ctx,
                                          NGX_HTTP_ASANA_HOOK_MALFORMED,
                                          reason);
        return NGX_HTTP_BAD_REQUEST;
    }

    ctx->secret = h->secret;

    if (ngx_http_asana_hook_enroll_policy(r, &policy) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_asana_hook_zone_find(ctx->zone, &ctx->key, ctx->hash,
                                       &ctx->set, r->connection->log);

    if (rc == NGX_ERROR) {
        return ngx_http_asana_hook_enrolled(r, ctx, policy, NGX_ERROR);
    }

    s = (ngx_http_asana_hook_secret_t *) ctx->set.start;

    for (i = 0; i < ctx->set.n; i++) {

        /* one that waits for its confirmation may get more than that */

        if (s->len == h->secret.len
            && CRYPTO_memcmp(s->data, h->secret.data, s->len) == 0
            && (!s->pending
                || (policy != NGX_HTTP_ASANA_HOOK_FIRST
                    && policy != NGX_HTTP_ASANA_HOOK_OPEN)
                || (policy == NGX_HTTP_ASANA_HOOK_FIRST
                    && ngx_http_asana_hook_active(ctx))))
        {
            ngx_http_asana_hook_identify(ctx, s->id);
            return ngx_http_asana_hook_enrolled(r, ctx, policy, NGX_OK);
        }

        s = ngx_http_asana_hook_secret_next(s);
    }

    return ngx_http_asana_hook_enroll(r, ctx, policy);
}


ngx_uint_t
ngx_http_asana_hook_secret_valid(ngx_str_t *secret)
{
    size_t  i;

    if (secret->len < NGX_HTTP_ASANA_HOOK_MIN_SECRET
        || secret->len > NGX_HTTP_ASANA_HOOK_MAX_SECRET)
    {
        return 0;
    }

    for (i = 0; i < secret->len; i++) {
        if (secret->data[i] <= ' ' || secret->data[i] > '~') {
            return 0;
        }
    }

    return 1;
}


ngx_int_t
ngx_http_asana_hook_policy(ngx_str_t *value,
    ngx_http_asana_hook_policy_e *policy)
{
    ngx_conf_enum_t  *e;

    for (e = ngx_http_asana_hook_policies; e->name.len; e++) {
        if (e->name.len == value->len
            && ngx_strncmp(e->name.data, value->data, value->len) == 0)
        {
            *policy = e->value;
            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_asana_hook_enroll_policy(ngx_http_request_t *r,
    ngx_http_asana_hook_policy_e *policy)
{
    ngx_str_t                        value;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    if (ahcf->enroll == NULL) {
        *policy = NGX_HTTP_ASANA_HOOK_FIRST;
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, ahcf->enroll, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_asana_hook_policy(&value, policy) == NGX_OK) {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "asana_hook: \"asana_hook_enroll\" has the unknown value "
                  "\"%V\", taken for \"off\"; use \"first\", \"open\", "
                  "\"confirm\", \"register\" or \"off\"", &value);

    *policy = NGX_HTTP_ASANA_HOOK_OFF;

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hook_enroll(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_policy_e policy)
{
    u_char                     id[NGX_HTTP_ASANA_HOOK_ID_LEN];
    ngx_int_t                  rc;
    ngx_http_asana_hook_op_t  *op;

    /* the store decides; what is refused for sure need not go there */

    if (policy == NGX_HTTP_ASANA_HOOK_OFF
        || (policy == NGX_HTTP_ASANA_HOOK_FIRST
            && ngx_http_asana_hook_active(ctx))
        || (policy == NGX_HTTP_ASANA_HOOK_REGISTER
            && !ngx_http_asana_hook_zone_creating(ctx->zone)))
    {
        return ngx_http_asana_hook_enrolled(r, ctx, policy, NGX_DECLINED);
    }

    if (ngx_http_asana_hook_secret_id(ctx->secret.data, ctx->secret.len, id)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    op = ngx_http_asana_hook_zone_op(ctx->zone, NGX_HTTP_ASANA_HOOK_ENROLL,
                                     &ctx->key, &ctx->set, r->connection->log);
    if (op == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    op->policy = (policy == NGX_HTTP_ASANA_HOOK_REGISTER)
                 ? NGX_HTTP_ASANA_HOOK_CONFIRM : policy;
    op->secret_len = ctx->secret.len;
    ngx_memcpy(op->secret, ctx->secret.data, ctx->secret.len);
    ngx_memcpy(op->id, id, NGX_HTTP_ASANA_HOOK_ID_LEN);

    op->handler = ngx_http_asana_hook_enroll_handler;
    op->data = r;

    if (ngx_http_asana_hook_store_post(ctx->zone->store, op) == NGX_AGAIN) {
        ngx_http_asana_hook_set_wipe(&ctx->set);

        ctx->op = op;
        ctx->policy = policy;
        ctx->rc = NGX_DONE;

        return NGX_DONE;
    }

    rc = op->rc;
    ngx_http_asana_hook_op_free(op);

    if (rc == NGX_OK) {
        ngx_http_asana_hook_identify(ctx, id);
    }

    return ngx_http_asana_hook_enrolled(r, ctx, policy, rc);
}


static void
ngx_http_asana_hook_enroll_handler(ngx_http_asana_hook_op_t *op)
{
    ngx_int_t                   rc;
    ngx_connection_t           *c;
    ngx_http_request_t         *r;
    ngx_http_asana_hook_ctx_t  *ctx;

    r = op->data;

    if (r == NULL) {

        /* the client has gone; its secret is stored all the same */

        ngx_http_asana_hook_op_free(op);
        return;
    }

    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    rc = op->rc;
    ctx->op = NULL;

    if (rc == NGX_OK) {
        ngx_http_asana_hook_identify(ctx, op->id);
    }

    ngx_http_asana_hook_op_free(op);

    (void) ngx_http_asana_hook_enrolled(r, ctx, ctx->policy, rc);
    ngx_http_asana_hook_count(ctx);

    r->write_event_handler = ngx_http_core_run_phases;
    ngx_http_core_run_phases(r);

    ngx_http_run_posted_requests(c);
}


static ngx_uint_t
ngx_http_asana_hook_active(ngx_http_asana_hook_ctx_t *ctx)
{
    time_t                         now;
    ngx_uint_t                     i;
    ngx_http_asana_hook_secret_t  *s;

    now = ngx_time();
    s = (ngx_http_asana_hook_secret_t *) ctx->set.start;

    for (i = 0; i < ctx->set.n; i++) {

        if (!s->pending
            && now - ngx_http_asana_hook_secret_seen(s) < ctx->zone->inactive)
        {
            return 1;
        }

        s = ngx_http_asana_hook_secret_next(s);
    }

    return 0;
}


/* answers a handshake by its outcome */

static ngx_int_t
ngx_http_asana_hook_enrolled(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_policy_e policy,
    ngx_int_t rc)
{
    const char                      *reason;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ngx_http_asana_hook_set_wipe(&ctx->set);

    switch (rc) {

    case NGX_OK:
        ctx->status = NGX_HTTP_ASANA_HOOK_HANDSHAKE;
        ctx->rc = NGX_OK;

        /* "mirror" and "try_files" come later in this phase and are skipped */
        r->content_handler = ngx_http_asana_hook_answer;

        return NGX_OK;

    case NGX_DECLINED:
        break;

    default: /* NGX_BUSY, NGX_ERROR: the store has logged it */
        ctx->status = NGX_HTTP_ASANA_HOOK_ERROR;
        ctx->rc = NGX_HTTP_SERVICE_UNAVAILABLE;
        return NGX_HTTP_SERVICE_UNAVAILABLE;
    }

    switch (policy) {

    case NGX_HTTP_ASANA_HOOK_FIRST:
        reason = "its key already has an active secret; give each webhook a "
                 "URL of its own, wait until the old secret is inactive, "
                 "revoke it by \"asana_hook_api\", or set "
                 "\"asana_hook_enroll\" to \"open\" or \"confirm\"";
        break;

    case NGX_HTTP_ASANA_HOOK_OPEN:
    case NGX_HTTP_ASANA_HOOK_CONFIRM:
        reason = "its key already has as many active secrets as \"max_secrets\""
                 " allows; give each webhook a URL of its own, revoke old ones "
                 "by \"asana_hook_api\", or raise it";
        break;

    case NGX_HTTP_ASANA_HOOK_REGISTER:
        reason = "no create call is in flight through a location with "
                 "\"asana_hook_register\" of the zone, or its key has as many "
                 "active secrets as \"max_secrets\" allows";
        break;

    default: /* NGX_HTTP_ASANA_HOOK_OFF */
        reason = "\"asana_hook_enroll\" is \"off\" here; set it to \"first\" "
                 "while webhooks are created";
    }

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    ngx_log_error(ahcf->log_level, r->connection->log, 0,
                  "asana_hook: handshake refused by zone \"%V\": %s",
                  &ctx->zone->name, reason);

    ctx->status = NGX_HTTP_ASANA_HOOK_REFUSED;
    ctx->rc = (ngx_int_t) ahcf->status;

    return ctx->rc;
}
