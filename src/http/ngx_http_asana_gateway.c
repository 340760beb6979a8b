
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The gateway: Asana's answer to a create call names the secret that it sent
 * in the handshake.  The answer is held back until that secret is active on
 * disk, so that when the application reads it, deliveries verify.
 */


#include "ngx_http_asana_gateway.h"
#include "ngx_asana_hmac.h"
#include "ngx_http_asana_delete.h"
#include "ngx_http_asana_site.h"

#include "ngx_asana_json.h"


static ngx_int_t ngx_http_asana_gateway_create(ngx_http_asana_hold_t *hold);
static ngx_int_t ngx_http_asana_gateway_confirm(ngx_http_asana_hold_t *hold);
static void ngx_http_asana_gateway_webhook(ngx_http_asana_hold_t *hold);
static ngx_asana_task_t *ngx_http_asana_gateway_task(ngx_http_asana_ctx_t *ctx,
    ngx_str_t *secret);
static ngx_int_t ngx_http_asana_gateway_outcome(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static void ngx_http_asana_gateway_refused(ngx_http_asana_hold_t *hold);


static ngx_str_t  ngx_http_asana_gateway_member = ngx_string("X-Hook-Secret");

static ngx_str_t  ngx_http_asana_gateway_gid[] = {
    ngx_string("data"),
    ngx_string("gid")
};


ngx_int_t
ngx_http_asana_gateway(ngx_http_request_t *r, ngx_http_asana_zone_conf_t *azcf)
{
    ngx_str_t                   gid;
    ngx_uint_t                  foreign;
    ngx_http_asana_ctx_t       *ctx;
    ngx_http_asana_hold_t      *hold;
    ngx_http_asana_loc_conf_t  *ahcf;

    foreign = ngx_http_asana_site_foreign(r);

    ngx_http_asana_delete_gid(r, &gid);

    if (r->method != NGX_HTTP_POST && gid.len == 0 && !foreign) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_asana_request_create(r, azcf, NGX_ASANA_COUNT_GATEWAY,
                                        ngx_http_asana_hold_end);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* most of its answers are none of our business */

    ctx->state = NGX_HTTP_ASANA_DONE;
    ctx->rc = NGX_DECLINED;

    if (foreign) {
        ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

        ngx_log_error(ahcf->log_level, r->connection->log, 0,
                      "asana_hook: call refused by zone \"%V\": a browser "
                      "sends it from another site", &azcf->name);

        /* answers of Asana are counted, and this has none */

        ctx->counted = 1;
        ctx->cause = "a browser sends it from another site";

        return ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_REFUSED,
                                             NGX_HTTP_FORBIDDEN, NULL);
    }

    hold = ngx_http_asana_hold_create(ctx);
    if (hold == NULL) {
        ctx->rc = NGX_HTTP_INTERNAL_SERVER_ERROR;
        return ctx->rc;
    }

    if (gid.len) {
        ngx_http_asana_delete(hold, &gid);
        return NGX_DECLINED;
    }

    return ngx_http_asana_gateway_create(hold);
}


static ngx_int_t
ngx_http_asana_gateway_create(ngx_http_asana_hold_t *hold)
{
    ngx_int_t              rc;
    ngx_http_asana_ctx_t  *ctx;

    ctx = hold->ctx;

    hold->call.ctx = ctx;
    hold->status = NGX_HTTP_CREATED;
    hold->reads = 1;
    hold->whole = ngx_http_asana_gateway_confirm;

    rc = ngx_http_asana_call_begin(&hold->call);

    if (rc != NGX_DONE) {
        ctx->rc = rc;
    }

    return rc;
}


/* NGX_DONE: the answer is to wait for the outcome */

static ngx_int_t
ngx_http_asana_gateway_confirm(ngx_http_asana_hold_t *hold)
{
    u_char                 buf[NGX_ASANA_MAX_SECRET];
    ngx_int_t              rc;
    ngx_str_t              secret;
    ngx_asana_task_t      *task;
    ngx_http_asana_ctx_t  *ctx;

    ctx = hold->ctx;

    secret.len = sizeof(buf);
    secret.data = buf;

    rc = ngx_asana_json_member(hold->start, hold->len,
                               &ngx_http_asana_gateway_member, &secret);

    if (rc != NGX_OK
        || ngx_asana_secrets_check(secret.data, secret.len) != NGX_OK)
    {
        ngx_explicit_memzero(buf, sizeof(buf));

        ngx_http_asana_hold_unreadable(hold,
                                       "it is no JSON object with one member "
                                       "\"X-Hook-Secret\" of 16 to 255 "
                                       "characters; is the upstream Asana's "
                                       "API?");
        return NGX_OK;
    }

    ngx_http_asana_gateway_webhook(hold);

    task = ngx_http_asana_gateway_task(ctx, &secret);

    ngx_explicit_memzero(buf, sizeof(buf));

    if (task == NULL) {
        return ngx_http_asana_gateway_outcome(ctx, NGX_ASANA_FAILED);
    }

    ngx_http_asana_request_identify(ctx, task->change.id);

    return ngx_http_asana_request_change(ctx, task,
                                         ngx_http_asana_gateway_outcome);
}


/* a secret is confirmed without it, too */

static void
ngx_http_asana_gateway_webhook(ngx_http_asana_hold_t *hold)
{
    ngx_str_t  gid;

    gid.len = NGX_ASANA_MAX_GID;
    gid.data = ngx_pnalloc(hold->ctx->r->pool, NGX_ASANA_MAX_GID);

    if (gid.data
        && ngx_asana_json_inner(hold->start, hold->len,
                                ngx_http_asana_gateway_gid, &gid)
           == NGX_OK
        && ngx_http_asana_hold_gid(gid.data, gid.len) == NGX_OK)
    {
        hold->ctx->webhook = gid;
    }
}


static ngx_asana_task_t *
ngx_http_asana_gateway_task(ngx_http_asana_ctx_t *ctx, ngx_str_t *secret)
{
    ngx_asana_task_t  *task;

    task = ngx_asana_task_create(NGX_ASANA_CONFIRM, NULL,
                                 ctx->r->connection->log);
    if (task == NULL) {
        return NULL;
    }

    ngx_asana_task_set_secret(task, secret);
    ngx_asana_task_set_gid(task, &ctx->webhook);

    ngx_asana_hmac_id(secret->data, secret->len, task->change.id);

    return task;
}


static ngx_int_t
ngx_http_asana_gateway_outcome(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_log_t              *log;
    ngx_http_asana_word_e   word;
    ngx_http_asana_hold_t  *hold;

    hold = ctx->data;
    log = ctx->r->connection->log;

    switch (rc) {

    case NGX_ASANA_HELD:
    case NGX_ASANA_CHANGED:
    case NGX_ASANA_ADDED:
        word = NGX_HTTP_ASANA_CONFIRMED;
        break;

    case NGX_ASANA_ABSENT:
        ngx_log_error(hold->log_level, log, 0,
                      "asana_hook: the secret %*s of the created webhook "
                      "\"%V\" never came to the zone \"%V\"; its target must "
                      "lead to a location with \"asana_hook %V\"",
                      sizeof(ctx->id), ctx->id, &ctx->webhook,
                      &ctx->azcf->name, &ctx->azcf->name);

        word = NGX_HTTP_ASANA_UNMATCHED;
        ctx->cause = "the secret of a created webhook never came to the zone";
        break;

    case NGX_ASANA_REFUSED:
        ngx_http_asana_gateway_refused(hold);
        word = NGX_HTTP_ASANA_REFUSED;
        break;

    default: /* NGX_ASANA_FULL, NGX_ASANA_FAILED */
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: the secret %*s of the created webhook "
                      "\"%V\" could not be confirmed in the zone \"%V\"; "
                      "delete the webhook and create it again when the store "
                      "can be written", sizeof(ctx->id), ctx->id,
                      &ctx->webhook, &ctx->azcf->name);

        word = NGX_HTTP_ASANA_ERROR;
        ctx->cause = "the secret of a created webhook could not be confirmed";
    }

    return ngx_http_asana_request_finish(ctx, word, NGX_DECLINED, NULL);
}


static void
ngx_http_asana_gateway_refused(ngx_http_asana_hold_t *hold)
{
    u_char                 buf[3 * NGX_ASANA_MAX_KEY];
    ngx_str_t              name;
    const char            *ref;
    ngx_http_asana_ctx_t  *ctx;

    ctx = hold->ctx;

    ref = ngx_http_asana_word_name(&ctx->changed->key, &name, buf);

    ctx->cause = "its key has as many active secrets as \"max_secrets\" allows";

    ngx_log_error(hold->log_level, ctx->r->connection->log, 0,
                  "asana_hook: the secret %*s of the created webhook \"%V\" "
                  "was refused by zone \"%V\": the key \"%s%V\" has as many "
                  "active secrets as \"max_secrets\" allows; \"asana-hook "
                  "revoke %s%V\" revokes them, with an id one of them; then "
                  "delete the webhook and create it again",
                  sizeof(ctx->id), ctx->id, &ctx->webhook, &ctx->azcf->name,
                  ref, &name, ref, &name);
}


void
ngx_http_asana_gateway_init(void)
{
    ngx_http_asana_hold_init();
}
