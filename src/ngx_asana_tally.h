
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_TALLY_H_INCLUDED_
#define _NGX_ASANA_TALLY_H_INCLUDED_


#include "ngx_asana_health.h"
#include "ngx_asana_zone.h"


/* The keys of a store by their health, counted by a slow walk. */

typedef struct ngx_asana_tally_s  ngx_asana_tally_t;


/* Returns one that has counted nothing, or NULL if there is no memory. */
ngx_asana_tally_t *ngx_asana_tally_create(ngx_pool_t *pool,
    ngx_asana_zone_t *zone);

/*
 * In the main thread of a worker: sets count[NGX_ASANA_HEALTHS], for how many
 * seconds the first of those that fail has failed, or 0, and the age in seconds
 * of all this; NGX_DECLINED if nothing was counted yet.  If it is not of this
 * second, and no worker counts already, this one starts
 * to, and takes a hundredth of a core at most.
 */
ngx_int_t ngx_asana_tally(ngx_asana_tally_t *tally, ngx_uint_t *count,
    time_t *failing, time_t *age);


#endif /* _NGX_ASANA_TALLY_H_INCLUDED_ */
