
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_THREAD_H_INCLUDED_
#define _NGX_ASANA_THREAD_H_INCLUDED_


#include "ngx_asana.h"


/*
 * One thread beside the event loop, for one job at a time.  It is started by
 * the first job and ends by itself when it was idle for a second.  All
 * functions are called in the main thread of a worker.
 */

typedef struct ngx_asana_thread_s  ngx_asana_thread_t;

typedef void (*ngx_asana_thread_pt)(void *data);


/*
 * Returns a thread that is not started yet, or NULL if there is no memory.
 * "job" is called in the thread, "done" in the main thread after it, never
 * before run() returns; "leave", unless it is NULL, in the main thread when
 * worker_shutdown_timeout has passed.
 */
ngx_asana_thread_t *ngx_asana_thread_create(ngx_asana_thread_pt job,
    ngx_asana_thread_pt done, ngx_asana_thread_pt leave, void *data,
    ngx_log_t *log);

/* Runs the job, none being under way; NGX_ERROR: no thread, it is logged. */
ngx_int_t ngx_asana_thread_run(ngx_asana_thread_t *thread);

/*
 * Waits so many milliseconds for a job that is under way, ends the thread and
 * frees it; "done" is not called any more.  NGX_DECLINED if the job is stuck:
 * the thread is left behind, and what it uses must stay.
 */
ngx_int_t ngx_asana_thread_end(ngx_asana_thread_t *thread, ngx_msec_t limit);


#endif /* _NGX_ASANA_THREAD_H_INCLUDED_ */
