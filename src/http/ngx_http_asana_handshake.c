
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_handshake.h"
#include "ngx_asana_hmac.h"


static ngx_int_t ngx_http_asana_handshake_looked(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static ngx_int_t ngx_http_asana_handshake_stored(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static ngx_int_t ngx_http_asana_handshake_refuse(ngx_http_asana_ctx_t *ctx);
static ngx_int_t ngx_http_asana_handshake_enroll(ngx_http_asana_ctx_t *ctx,
    ngx_asana_enroll_e *enroll);
static ngx_int_t ngx_http_asana_handshake_failed(ngx_http_asana_ctx_t *ctx);


ngx_int_t
ngx_http_asana_handshake(ngx_http_asana_ctx_t *ctx, ngx_http_asana_header_t *h)
{
    ngx_int_t    rc;
    const char  *reason;

    reason = NULL;

    if (h->signatures) {
        reason = "it also carries \"X-Hook-Signature\"";

    } else if (h->secrets > 1) {
        reason = "it carries \"X-Hook-Secret\" more than once";

    } else {
        rc = ngx_http_asana_request_key(ctx, &reason);

        if (rc == NGX_ERROR) {
            return ngx_http_asana_handshake_failed(ctx);
        }
    }

    if (reason) {
        return ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_MALFORMED,
                                             NGX_HTTP_BAD_REQUEST, reason);
    }

    ctx->secret = h->secret;

    if (!ngx_asana_zone_exact(ctx->azcf->zone)) {

        /* the store is asked in any case */

        return ngx_http_asana_handshake_looked(ctx, NGX_DECLINED);
    }

    return ngx_http_asana_request_find(ctx, ngx_http_asana_handshake_looked);
}


/*
 * The store decides; but what the policy makes of the secrets that are known
 * tells whether it needs to be asked.
 */

static ngx_int_t
ngx_http_asana_handshake_looked(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_uint_t                 exact;
    ngx_asana_task_t          *task;
    ngx_asana_secret_t        *held;
    ngx_asana_change_t        *change;
    ngx_asana_outcome_e        outcome;
    ngx_asana_backend_conf_t  *conf;

    exact = ngx_asana_zone_exact(ctx->azcf->zone);
    held = exact ? ngx_asana_policy_held(&ctx->secrets, &ctx->secret) : NULL;

    if (held) {
        ngx_http_asana_request_identify(ctx, held->id);
        return ngx_http_asana_handshake_stored(ctx, NGX_ASANA_HELD);
    }

    if (ngx_asana_secrets_check(ctx->secret.data, ctx->secret.len) != NGX_OK) {
        return ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_MALFORMED,
                                             NGX_HTTP_BAD_REQUEST,
                                             "\"X-Hook-Secret\" is not 16 to "
                                             "255 visible ASCII characters");
    }

    if (rc == NGX_ERROR) {
        return ngx_http_asana_handshake_stored(ctx, NGX_ASANA_FAILED);
    }

    conf = &ctx->azcf->store;

    task = ngx_asana_task_create(NGX_ASANA_HANDSHAKE, &ctx->key,
                                 ctx->r->connection->log);
    if (task == NULL) {
        return ngx_http_asana_handshake_failed(ctx);
    }

    change = &task->change;

    ngx_asana_task_set_secret(task, &ctx->secret);

    if (ngx_http_asana_handshake_enroll(ctx, &change->enroll) != NGX_OK) {
        ngx_asana_task_free(task);
        return ngx_http_asana_handshake_failed(ctx);
    }

    change->creating = ngx_asana_counters_creating(
                             ngx_asana_zone_counters(ctx->azcf->zone));

    ngx_asana_hmac_id(change->secret, change->secret_len, change->id);
    ngx_http_asana_request_identify(ctx, change->id);

    outcome = ngx_asana_policy_decide(&ctx->secrets, change, ngx_time(),
                                      &conf->limits, &ctx->reason);

    if (outcome == NGX_ASANA_FAILED
        || (exact && (outcome == NGX_ASANA_HELD
                      || outcome == NGX_ASANA_REFUSED)))
    {
        ngx_asana_task_free(task);
        return ngx_http_asana_handshake_stored(ctx, outcome);
    }

    return ngx_http_asana_request_change(ctx, task,
                                         ngx_http_asana_handshake_stored);
}


static ngx_int_t
ngx_http_asana_handshake_stored(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    switch (rc) {

    case NGX_ASANA_HELD:
    case NGX_ASANA_CHANGED:
    case NGX_ASANA_ADDED:
        return ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_HANDSHAKE,
                                             NGX_OK, NULL);

    case NGX_ASANA_REFUSED:
        return ngx_http_asana_handshake_refuse(ctx);

    default: /* NGX_ASANA_FULL, NGX_ASANA_FAILED: the store has logged it */
        ctx->identified = 0;
        return ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_ERROR,
                                             NGX_HTTP_SERVICE_UNAVAILABLE,
                                             NULL);
    }
}


/* the line names the key in a way that can be given to the command */

static ngx_int_t
ngx_http_asana_handshake_refuse(ngx_http_asana_ctx_t *ctx)
{
    u_char                      buf[3 * NGX_ASANA_MAX_KEY];
    ngx_str_t                   name;
    const char                 *ref;
    ngx_http_asana_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(ctx->r, ngx_http_asana_hook_module);

    ref = ngx_http_asana_word_name(&ctx->key, &name, buf);

    ctx->cause = ngx_asana_policy_reason(ctx->reason);

    ngx_log_error(ahcf->log_level, ctx->r->connection->log, 0,
                  "asana_hook: handshake refused by zone \"%V\" for the key "
                  "\"%s%V\": %s; \"asana-hook revoke %s%V\" revokes what is "
                  "held", &ctx->azcf->name, ref, &name, ctx->cause, ref,
                  &name);

    ctx->identified = 0;

    return ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_REFUSED,
                                         (ngx_int_t) ahcf->status, NULL);
}


static ngx_int_t
ngx_http_asana_handshake_enroll(ngx_http_asana_ctx_t *ctx,
    ngx_asana_enroll_e *enroll)
{
    u_char                      buf[3 * 64];
    ngx_str_t                   name, value;
    ngx_http_asana_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(ctx->r, ngx_http_asana_hook_module);

    if (ahcf->enroll == NULL) {
        *enroll = NGX_ASANA_ENROLL_FIRST;
        return NGX_OK;
    }

    if (ngx_http_complex_value(ctx->r, ahcf->enroll, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_asana_policy_enroll(&value, enroll) != NGX_OK) {

        value.len = ngx_min(value.len, sizeof(buf) / 3);
        (void) ngx_http_asana_word_name(&value, &name, buf);

        ngx_log_error(NGX_LOG_ERR, ctx->r->connection->log, 0,
                      "asana_hook: \"asana_hook_enroll\" has the unknown value "
                      "\"%V\", taken for \"off\"; use \"first\", \"open\", "
                      "\"confirm\", \"gateway\" or \"off\"", &name);

        *enroll = NGX_ASANA_ENROLL_OFF;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_handshake_failed(ngx_http_asana_ctx_t *ctx)
{
    ctx->identified = 0;

    return ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_ERROR,
                                         NGX_HTTP_INTERNAL_SERVER_ERROR, NULL);
}
