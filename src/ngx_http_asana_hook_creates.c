
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Create calls in flight, by worker.  Nothing may keep the door of
 * "asana_hook_enroll register" open: neither a worker that died nor a call
 * that was lost.
 */


#include "ngx_http_asana_hook.h"


/* seconds after which a create call is not believed any more */
#define NGX_HTTP_ASANA_HOOK_CREATING  60


static ngx_uint_t ngx_http_asana_hook_alive(ngx_atomic_uint_t pid);


/* takes a place among those who create, from the dead if need be */

void
ngx_http_asana_hook_zone_creates(ngx_http_asana_hook_zone_t *zone)
{
    ngx_uint_t                      i;
    ngx_atomic_uint_t               pid;
    ngx_http_asana_hook_creates_t  *creates;

    creates = zone->sh->creates;

    if (creates == NULL) {
        return;
    }

    for (i = 0; i < NGX_HTTP_ASANA_HOOK_CREATES; i++) {

        pid = creates[i].pid;

        if (pid && pid != (ngx_atomic_uint_t) ngx_pid
            && ngx_http_asana_hook_alive(pid))
        {
            continue;
        }

        if (ngx_atomic_cmp_set(&creates[i].pid, pid, ngx_pid)) {
            creates[i].count = 0;
            zone->creates = &creates[i];
            return;
        }
    }
}


void
ngx_http_asana_hook_zone_create_begin(ngx_http_asana_hook_zone_t *zone)
{
    if (zone->creates) {
        zone->creates->last = ngx_time();
        zone->creates->count++;
    }
}


void
ngx_http_asana_hook_zone_create_end(ngx_http_asana_hook_zone_t *zone)
{
    if (zone->creates) {
        zone->creates->count--;
    }
}


ngx_uint_t
ngx_http_asana_hook_zone_creating(ngx_http_asana_hook_zone_t *zone)
{
    time_t                          now;
    ngx_uint_t                      i;
    ngx_http_asana_hook_creates_t  *creates;

    creates = zone->sh->creates;

    if (creates == NULL) {
        return 0;
    }

    now = ngx_time();

    for (i = 0; i < NGX_HTTP_ASANA_HOOK_CREATES; i++) {

        if (creates[i].count
            && now - (time_t) creates[i].last < NGX_HTTP_ASANA_HOOK_CREATING
            && ngx_http_asana_hook_alive(creates[i].pid))
        {
            return 1;
        }
    }

    return 0;
}


/* another user's process may be there without taking a signal */

static ngx_uint_t
ngx_http_asana_hook_alive(ngx_atomic_uint_t pid)
{
    return kill((ngx_pid_t) pid, 0) == 0 || ngx_errno != ESRCH;
}
