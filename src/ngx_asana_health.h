
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_HEALTH_H_INCLUDED_
#define _NGX_ASANA_HEALTH_H_INCLUDED_


#include "ngx_asana_secrets.h"


/*
 * How the deliveries of a secret fare.  All functions are pure: they take no
 * lock, and may be called in any thread.
 */

/* from good to bad */

typedef enum {
    NGX_ASANA_HEALTH_PENDING = 0,
    NGX_ASANA_HEALTH_OK,
    NGX_ASANA_HEALTH_NEW,       /* nothing yet */
    NGX_ASANA_HEALTH_LATE,      /* a heartbeat is missing */
    NGX_ASANA_HEALTH_FAILING,
    NGX_ASANA_HEALTH_DEAD,      /* Asana has deleted its webhook */
    NGX_ASANA_HEALTHS
} ngx_asana_health_e;


/*
 * Seconds, by Asana's rules: a heartbeat comes every 8 hours, and a webhook
 * that has failed for 24 is deleted.  An hour is for what is late.
 */
#define NGX_ASANA_HEALTH_LATE_AFTER  (9 * 3600)
#define NGX_ASANA_HEALTH_FAIL_AFTER  (24 * 3600)
#define NGX_ASANA_HEALTH_DEAD_AFTER  (25 * 3600)

/* what a store knows of it: whether it fails, and the class of the code */
#define NGX_ASANA_HEALTH_FAILS  16
#define ngx_asana_health_state(s)                                             \
    ((u_char) (((s)->failing ? NGX_ASANA_HEALTH_FAILS : 0) + (s)->code / 100))


/* The words of ngx_asana_health_e. */
extern ngx_str_t  ngx_asana_health_names[];


/* The health of a secret; of a key: the worst of its confirmed secrets. */
ngx_asana_health_e ngx_asana_health(ngx_asana_secret_t *s, time_t now);
ngx_asana_health_e ngx_asana_health_worst(ngx_asana_secrets_t *secrets,
    time_t now);

/* Since when those that fail do, or the time given if none does. */
time_t ngx_asana_health_since(ngx_asana_secrets_t *secrets, time_t now);

/*
 * A verified delivery was answered now, with a code that is a success for
 * Asana or not.  A failure in the second of a success is too early to be
 * told apart from it: the next one counts.
 */
void ngx_asana_health_note(ngx_asana_secret_t *s, uint16_t code,
    ngx_uint_t success, time_t now);

/*
 * Adds what somebody else has noted of the same secret; 1 if there is anything
 * new in it.  Successes end all failures up to their time, of the others the
 * first one stays, and the code is that of the last delivery.
 */
ngx_uint_t ngx_asana_health_merge(ngx_asana_secret_t *s,
    ngx_asana_secret_t *other);


#endif /* _NGX_ASANA_HEALTH_H_INCLUDED_ */
