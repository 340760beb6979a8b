
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_call.h"

#include <openssl/rand.h>


static ngx_asana_task_t *ngx_http_asana_call_task(ngx_http_asana_call_t *call,
    ngx_asana_change_e type);
static ngx_int_t ngx_http_asana_call_told(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static void ngx_http_asana_call_go_on(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);


ngx_int_t
ngx_http_asana_call_begin(ngx_http_asana_call_t *call)
{
    ngx_int_t                    rc;
    ngx_asana_task_t            *task;
    ngx_http_asana_ctx_t        *ctx;
    ngx_http_asana_zone_conf_t  *azcf;

    ctx = call->ctx;
    azcf = ctx->azcf;

    ngx_asana_counters_create_begin(ngx_asana_zone_counters(azcf->zone),
                                    &call->create);

    if (!azcf->fleet || !(azcf->awaited || azcf->perhaps)) {
        return NGX_DECLINED;
    }

    if (RAND_bytes(call->id, NGX_ASANA_ID_LEN) != 1) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    task = ngx_http_asana_call_task(call, NGX_ASANA_CALL);
    if (task == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* the handshake may come to another host, which must know before Asana */

    call->told = 1;
    call->end = ctx->end;
    ctx->end = ngx_http_asana_call_go_on;

    rc = ngx_http_asana_request_change(ctx, task, ngx_http_asana_call_told);

    if (rc != NGX_DONE) {

        /* nothing waits */

        ctx->end = call->end;
    }

    return rc;
}


static ngx_asana_task_t *
ngx_http_asana_call_task(ngx_http_asana_call_t *call, ngx_asana_change_e type)
{
    ngx_asana_task_t  *task;

    task = ngx_asana_task_create(type, NULL, ngx_cycle->log);

    if (task) {
        ngx_memcpy(task->change.id, call->id, NGX_ASANA_ID_LEN);
    }

    return task;
}


/* without the store no handshake is accepted, but the call may go on */

static ngx_int_t
ngx_http_asana_call_told(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ctx->state = NGX_HTTP_ASANA_DONE;
    ctx->rc = NGX_DECLINED;

    return NGX_DECLINED;
}


static void
ngx_http_asana_call_go_on(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_http_asana_call_t  *call;

    call = ctx->data;
    ctx->end = call->end;

    ngx_http_asana_request_phases(ctx, rc);
}


void
ngx_http_asana_call_end(ngx_http_asana_call_t *call)
{
    ngx_asana_task_t  *task;
    ngx_asana_zone_t  *zone;

    zone = call->ctx->azcf->zone;

    ngx_asana_counters_create_end(ngx_asana_zone_counters(zone),
                                  &call->create);

    if (!call->told) {
        return;
    }

    call->told = 0;

    task = ngx_http_asana_call_task(call, NGX_ASANA_CALL_END);

    if (task) {
        (void) ngx_asana_zone_post(zone, task);
    }
}
