
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_task.h"


ngx_asana_task_t *
ngx_asana_task_create(ngx_asana_change_e type, ngx_str_t *key,
    ngx_log_t *log)
{
    ngx_asana_task_t  *task;

    task = ngx_calloc(sizeof(ngx_asana_task_t), log);
    if (task == NULL) {
        return NULL;
    }

    task->change.type = type;

    task->key.data = task->buf;

    if (key && key->len) {
        task->key.len = key->len;
        ngx_memcpy(task->buf, key->data, key->len);
    }

    return task;
}


void
ngx_asana_task_set_secret(ngx_asana_task_t *task, ngx_str_t *secret)
{
    task->change.secret_len = (u_char) secret->len;
    ngx_memcpy(task->change.secret, secret->data, secret->len);
}


void
ngx_asana_task_set_gid(ngx_asana_task_t *task, ngx_str_t *gid)
{
    task->change.gid_len = (u_char) gid->len;

    if (gid->len) {
        ngx_memcpy(task->change.gid, gid->data, gid->len);
    }
}


void
ngx_asana_task_begin(ngx_asana_task_t *task)
{
    task->outcome = NGX_ASANA_ABSENT;
    task->reason = NGX_ASANA_REASON_NONE;
    task->changes = 0;
    task->key.len = 0;
}


void
ngx_asana_task_add(ngx_asana_task_t *task, ngx_str_t *key,
    ngx_asana_outcome_e outcome, ngx_asana_reason_e reason)
{
    task->changes += (outcome >= NGX_ASANA_CHANGED);

    if (task->outcome <= NGX_ASANA_REFUSED
        ? outcome >= task->outcome
        : outcome > NGX_ASANA_REFUSED && outcome < task->outcome)
    {
        return;
    }

    task->outcome = outcome;
    task->reason = reason;

    task->key.len = key->len;
    ngx_memcpy(task->buf, key->data, key->len);
}


void
ngx_asana_task_fail(ngx_asana_task_t *task)
{
    task->outcome = NGX_ASANA_FAILED;
    task->reason = NGX_ASANA_REASON_NONE;
    task->changes = 0;
}


void
ngx_asana_task_free(ngx_asana_task_t *task)
{
    if (task->release) {
        task->release(task);
    }

    ngx_explicit_memzero(task, sizeof(ngx_asana_task_t));
    ngx_free(task);
}


void
ngx_asana_task_detach(ngx_asana_task_t *task)
{
    task->handler = NULL;
}
