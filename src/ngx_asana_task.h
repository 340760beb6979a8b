
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_TASK_H_INCLUDED_
#define _NGX_ASANA_TASK_H_INCLUDED_


#include "ngx_asana_policy.h"
#include "ngx_asana_secrets.h"


typedef struct ngx_asana_task_s  ngx_asana_task_t;
typedef struct ngx_asana_walk_s  ngx_asana_walk_t;

/* called once, in the main thread; the task is read only */
typedef void (*ngx_asana_task_pt)(ngx_asana_task_t *task,
    ngx_asana_outcome_e outcome);

typedef void (*ngx_asana_release_pt)(ngx_asana_task_t *task);


/* secrets that one RESEAL encrypts anew at most */
#define NGX_ASANA_RESEAL_MAX  1000


/* a change on its way; memory of its own, for it outlives requests */

struct ngx_asana_task_s {
    ngx_queue_t             queue;
    ngx_asana_change_t      change;
    ngx_asana_outcome_e     outcome;
    ngx_asana_reason_e      reason;
    ngx_asana_task_pt       handler;    /* NULL: nobody waits any more */
    void                   *data;
    void                   *owner;      /* conf->data of the store */
    ngx_msec_t              deadline;
    ngx_uint_t              changes;    /* keys that CONFIRM, FORGET changed */
    ngx_uint_t              resealed;   /* RESEAL: secrets */
    uint64_t                left;       /* those of other keys */
    ngx_asana_walk_t       *walk;       /* WALK */
    ngx_asana_release_pt    release;    /* of it, or NULL */
    ngx_str_t               key;        /* of CONFIRM, FORGET see below */
    u_char                  buf[NGX_ASANA_MAX_KEY];
};


/*
 * Returns a task of this type, with a copy of the key (at most MAX_KEY bytes;
 * NULL: it has none), or NULL if there is no memory.  It belongs to the caller
 * until it is posted.
 */
ngx_asana_task_t *ngx_asana_task_create(ngx_asana_change_e type,
    ngx_str_t *key, ngx_log_t *log);

/* Gives a change its secret, at most MAX_SECRET bytes, or gid, but no id. */
void ngx_asana_task_set_secret(ngx_asana_task_t *task, ngx_str_t *secret);
void ngx_asana_task_set_gid(ngx_asana_task_t *task, ngx_str_t *gid);

/*
 * CONFIRM and FORGET concern any key: begin() before the first one, add() what
 * was decided for each.  The worst outcome counts if it is no better than a
 * refusal, else the best; task->key is the one that it came from.
 */
#define ngx_asana_task_keyless(type)                                          \
    ((type) == NGX_ASANA_CONFIRM || (type) == NGX_ASANA_FORGET)
void ngx_asana_task_begin(ngx_asana_task_t *task);
void ngx_asana_task_add(ngx_asana_task_t *task, ngx_str_t *key,
    ngx_asana_outcome_e outcome, ngx_asana_reason_e reason);

/* Nothing of it was made durable. */
void ngx_asana_task_fail(ngx_asana_task_t *task);

/* Overwrites it and frees it. */
void ngx_asana_task_free(ngx_asana_task_t *task);

/*
 * In the main thread: nobody waits for the task any more; it is carried out
 * all the same.
 */
void ngx_asana_task_detach(ngx_asana_task_t *task);


#endif /* _NGX_ASANA_TASK_H_INCLUDED_ */
