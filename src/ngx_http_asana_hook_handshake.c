
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_hook.h"

#include <openssl/crypto.h>


/* Asana waits no longer */
#define NGX_HTTP_ASANA_HOOK_DEADLINE  10000


static ngx_int_t ngx_http_asana_hook_enroll_policy(ngx_http_request_t *r,
    ngx_http_asana_hook_policy_e *policy);
static ngx_int_t ngx_http_asana_hook_enroll(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_policy_e policy);
static ngx_event_t *ngx_http_asana_hook_timer(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx);
static void ngx_http_asana_hook_wait(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx);
static void ngx_http_asana_hook_enroll_handler(ngx_http_asana_hook_op_t *op);
static void ngx_http_asana_hook_deadline(ngx_event_t *ev);
static void ngx_http_asana_hook_late(ngx_http_asana_hook_ctx_t *ctx);
static void ngx_http_asana_hook_resume(ngx_http_asana_hook_ctx_t *ctx,
    ngx_int_t rc);
static ngx_uint_t ngx_http_asana_hook_active(ngx_http_asana_hook_ctx_t *ctx);
static ngx_int_t ngx_http_asana_hook_enrolled(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_policy_e policy,
    ngx_int_t rc);
static void ngx_http_asana_hook_refused(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, const char *reason);
static ngx_uint_t ngx_http_asana_hook_name(ngx_str_t *text, ngx_str_t *name,
    u_char *buf);


#define ngx_http_asana_hook_alnum(ch)                                         \
    (((ch) >= '0' && (ch) <= '9') || (((ch) | 0x20) >= 'a'                    \
                                      && ((ch) | 0x20) <= 'z'))


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

        reason = (rc == NGX_OK) ? NULL : NGX_HTTP_ASANA_HOOK_BAD_KEY;
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
    u_char                           buf[3 * 64];
    ngx_str_t                        name, value;
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

    value.len = ngx_min(value.len, sizeof(buf) / 3);
    ngx_http_asana_hook_name(&value, &name, buf);

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "asana_hook: \"asana_hook_enroll\" has the unknown value "
                  "\"%V\", taken for \"off\"; use \"first\", \"open\", "
                  "\"confirm\", \"register\" or \"off\"", &name);

    *policy = NGX_HTTP_ASANA_HOOK_OFF;

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hook_enroll(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_policy_e policy)
{
    u_char                     id[NGX_HTTP_ASANA_HOOK_ID_LEN];
    ngx_int_t                  rc;
    ngx_event_t               *timer;
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

    timer = ngx_http_asana_hook_timer(r, ctx);

    if (timer == NULL
        || ngx_http_asana_hook_secret_id(ctx->secret.data, ctx->secret.len, id)
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
    op->data = ctx;

    if (ngx_http_asana_hook_store_post(ctx->zone->store, op) == NGX_AGAIN) {
        ngx_http_asana_hook_set_wipe(&ctx->set);

        ctx->op = op;
        ctx->policy = policy;
        ctx->timer = timer;

        ngx_http_asana_hook_wait(r, ctx);

        return NGX_DONE;
    }

    rc = op->rc;
    ngx_http_asana_hook_op_free(op);

    if (rc == NGX_OK) {
        ngx_http_asana_hook_identify(ctx, id);
    }

    return ngx_http_asana_hook_enrolled(r, ctx, policy, rc);
}


static ngx_event_t *
ngx_http_asana_hook_timer(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx)
{
    ngx_event_t  *timer;

    timer = ngx_pcalloc(r->pool, sizeof(ngx_event_t));
    if (timer == NULL) {
        return NULL;
    }

    timer->data = ctx;
    timer->handler = ngx_http_asana_hook_deadline;
    timer->log = r->connection->log;

    /* a client that leaves is to be noticed */

    if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        return NULL;
    }

    return timer;
}


static void
ngx_http_asana_hook_wait(ngx_http_request_t *r, ngx_http_asana_hook_ctx_t *ctx)
{
    ngx_event_t  *rev;

    /* for as long as the outcome is not known, it is the client's to wait */

    ctx->status = NGX_HTTP_ASANA_HOOK_ABORTED;
    ctx->rc = NGX_DONE;

    ngx_add_timer(ctx->timer, NGX_HTTP_ASANA_HOOK_DEADLINE);

    r->read_event_handler = ngx_http_test_reading;

    rev = r->connection->read;

    /* it may have sent its request and left with the same packet */

    if (rev->pending_eof) {
        ngx_post_event(rev, &ngx_posted_events);
    }
}


static void
ngx_http_asana_hook_enroll_handler(ngx_http_asana_hook_op_t *op)
{
    ngx_int_t                   rc;
    ngx_http_asana_hook_ctx_t  *ctx;

    ctx = op->data;
    rc = op->rc;

    if (ctx == NULL) {

        /* nobody waits any more; the secret is stored all the same */

        ngx_http_asana_hook_op_free(op);
        return;
    }

    ctx->op = NULL;

    if (rc == NGX_OK) {
        ngx_http_asana_hook_identify(ctx, op->id);
    }

    ngx_http_asana_hook_op_free(op);

    ngx_http_asana_hook_resume(ctx, rc);
}


static void
ngx_http_asana_hook_deadline(ngx_event_t *ev)
{
    ngx_http_asana_hook_ctx_t *ctx = ev->data;

    ctx->op->data = NULL;
    ctx->op = NULL;

    ngx_http_asana_hook_late(ctx);

    ngx_http_asana_hook_resume(ctx, NGX_ERROR);
}


/* the cause is the same for all of them: one line a second */

static void
ngx_http_asana_hook_late(ngx_http_asana_hook_ctx_t *ctx)
{
    static time_t  logged;

    if (logged == ngx_time()) {
        return;
    }

    logged = ngx_time();

    ngx_log_error(NGX_LOG_CRIT, ctx->request->connection->log, 0,
                  "asana_hook: a handshake waited 10 s for the store of the "
                  "zone \"%V\", answered 503; see what makes the disk under "
                  "\"%V\" slow", &ctx->zone->name, &ctx->zone->state->name);
}


static void
ngx_http_asana_hook_resume(ngx_http_asana_hook_ctx_t *ctx, ngx_int_t rc)
{
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = ctx->request;
    c = r->connection;

    if (ctx->timer->timer_set) {
        ngx_del_timer(ctx->timer);
    }

    if (ngx_http_get_module_ctx(r, ngx_http_asana_hook_module) != ctx) {

        /* "post_action": its client left, and it is elsewhere now */

        return;
    }

    ngx_http_set_log_request(c->log, r);

    (void) ngx_http_asana_hook_enrolled(r, ctx, ctx->policy, rc);
    ngx_http_asana_hook_count(ctx);

    r->read_event_handler = ngx_http_block_reading;
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

    default: /* NGX_BUSY, NGX_ERROR: logged already */
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

    ngx_http_asana_hook_refused(r, ctx, reason);

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    ctx->status = NGX_HTTP_ASANA_HOOK_REFUSED;
    ctx->rc = (ngx_int_t) ahcf->status;

    return ctx->rc;
}


/* the line names the key in a way that can be given to the command */

static void
ngx_http_asana_hook_refused(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, const char *reason)
{
    u_char                           buf[3 * NGX_HTTP_ASANA_HOOK_MAX_KEY];
    ngx_str_t                        name;
    const char                      *ref;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    ref = ngx_http_asana_hook_name(&ctx->key, &name, buf) ? "ref:" : "";

    ngx_log_error(ahcf->log_level, r->connection->log, 0,
                  "asana_hook: handshake refused by zone \"%V\" for the key "
                  "\"%s%V\": %s; \"asana-hook revoke %s%V\" revokes what is "
                  "held", &ctx->zone->name, ref, &name, reason, ref, &name);
}


/*
 * Text for a line of the log that may come from a client: as it is, or
 * percent-encoded in buf, which has three times its length; 1 if so.
 */

static ngx_uint_t
ngx_http_asana_hook_name(ngx_str_t *text, ngx_str_t *name, u_char *buf)
{
    size_t  i;

    *name = *text;

    for (i = 0; i < text->len; i++) {

        if (text->data[i] == '\0'
            || (!ngx_http_asana_hook_alnum(text->data[i])
                && ngx_strchr("/._-~:", text->data[i]) == NULL))
        {
            name->data = buf;
            name->len = (u_char *) ngx_escape_uri(buf, text->data, text->len,
                                                NGX_ESCAPE_URI_COMPONENT)
                        - buf;
            return 1;
        }
    }

    return 0;
}
