
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A disk needs as long for one secret as for many, and the event loop cannot
 * wait for either.  While a batch of operations is carried out in a thread,
 * the next ones gather, and share the following batch.
 */


#include "ngx_http_asana_hook.h"


/* operations of one batch; a longer one would hold up its first for long */
#define NGX_HTTP_ASANA_HOOK_BATCH  256

#define NGX_HTTP_ASANA_HOOK_HOLD   60000

/* operations of a worker that wait, whoever asked for them */
#define NGX_HTTP_ASANA_HOOK_CHANGES  1024


static void ngx_http_asana_hook_group_run(ngx_http_asana_hook_group_t *group);
#if (NGX_THREADS)
static void ngx_http_asana_hook_group_start(
    ngx_http_asana_hook_group_t *group);
static void ngx_http_asana_hook_group_thread(void *data, ngx_log_t *log);
static void ngx_http_asana_hook_group_completion(ngx_event_t *ev);
static void ngx_http_asana_hook_group_hold(ngx_event_t *ev);
#endif


#if (NGX_THREADS)
static ngx_uint_t  ngx_http_asana_hook_group_waiting;
#endif


void
ngx_http_asana_hook_group_init(ngx_http_asana_hook_group_t *group,
    ngx_thread_pool_t *pool)
{
    ngx_queue_init(&group->waiting);
    ngx_queue_init(&group->batch);

    group->ident = -1;

#if (NGX_THREADS)

    group->pool = pool;

    group->task.ctx = group;
    group->task.handler = ngx_http_asana_hook_group_thread;
    group->task.event.data = group;
    group->task.event.handler = ngx_http_asana_hook_group_completion;
    group->task.event.log = ngx_cycle->log;

    group->hold.data = group;
    group->hold.handler = ngx_http_asana_hook_group_hold;
    group->hold.log = ngx_cycle->log;

#endif
}


ngx_int_t
ngx_http_asana_hook_group_post(ngx_http_asana_hook_group_t *group,
    ngx_http_asana_hook_op_t *op)
{
#if (NGX_THREADS)

    if (group->pool) {

        if (ngx_http_asana_hook_group_waiting == NGX_HTTP_ASANA_HOOK_CHANGES) {
            return NGX_BUSY;
        }

        ngx_http_asana_hook_group_waiting++;
        ngx_queue_insert_tail(&group->waiting, &op->queue);

        if (!group->busy) {
            ngx_http_asana_hook_group_start(group);
        }

        return NGX_AGAIN;
    }

#endif

    ngx_queue_insert_tail(&group->batch, &op->queue);

    ngx_http_asana_hook_group_run(group);

    ngx_queue_remove(&op->queue);

    return NGX_OK;
}


void
ngx_http_asana_hook_group_wake(ngx_http_asana_hook_group_t *group)
{
#if (NGX_THREADS)

    if (group->pool) {
        if (!group->busy) {
            ngx_http_asana_hook_group_start(group);
        }

        return;
    }

#endif

    ngx_http_asana_hook_group_run(group);
}


static void
ngx_http_asana_hook_group_run(ngx_http_asana_hook_group_t *group)
{
    do {
        group->run(group->data, &group->batch, ngx_cycle->log);
    } while (group->settle(group->data) == NGX_AGAIN);
}


#if (NGX_THREADS)

static void
ngx_http_asana_hook_group_start(ngx_http_asana_hook_group_t *group)
{
    ngx_uint_t    n;
    ngx_queue_t  *q;

    for (n = 0; n < NGX_HTTP_ASANA_HOOK_BATCH; n++) {

        if (ngx_queue_empty(&group->waiting)) {
            break;
        }

        q = ngx_queue_head(&group->waiting);
        ngx_queue_remove(q);
        ngx_queue_insert_tail(&group->batch, q);
    }

    group->busy = 1;

    /* a worker that exits gracefully waits for timers, not for threads */

    if (!group->hold.timer_set) {
        ngx_add_timer(&group->hold, NGX_HTTP_ASANA_HOOK_HOLD);
    }

    if (ngx_thread_task_post(group->pool, &group->task) != NGX_OK) {

        /* the operations keep the NGX_ERROR that they came with */

        ngx_post_event(&group->task.event, &ngx_posted_events);
    }
}


static void
ngx_http_asana_hook_group_thread(void *data, ngx_log_t *log)
{
    ngx_http_asana_hook_group_t *group = data;

    group->run(group->data, &group->batch, log);
}


static void
ngx_http_asana_hook_group_completion(ngx_event_t *ev)
{
    ngx_http_asana_hook_group_t *group = ev->data;

    ngx_queue_t                done, *q;
    ngx_http_asana_hook_op_t  *op;

    group->busy = 0;

    if (group->settle(group->data) == NGX_AGAIN) {
        ngx_http_asana_hook_group_start(group);
        return;
    }

    ngx_queue_init(&done);

    if (!ngx_queue_empty(&group->batch)) {
        ngx_queue_add(&done, &group->batch);
        ngx_queue_init(&group->batch);
    }

    /* the disk goes on while this thread answers */

    if (!ngx_queue_empty(&group->waiting)) {
        ngx_http_asana_hook_group_start(group);

    } else if (group->hold.timer_set) {
        ngx_del_timer(&group->hold);
    }

    while (!ngx_queue_empty(&done)) {
        q = ngx_queue_head(&done);
        ngx_queue_remove(q);

        ngx_http_asana_hook_group_waiting--;

        op = ngx_queue_data(q, ngx_http_asana_hook_op_t, queue);
        op->handler(op);
    }
}


static void
ngx_http_asana_hook_group_hold(ngx_event_t *ev)
{
    ngx_http_asana_hook_group_t *group = ev->data;

    if (group->busy) {
        ngx_add_timer(ev, NGX_HTTP_ASANA_HOOK_HOLD);
    }
}

#endif
