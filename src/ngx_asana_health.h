
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

/* what a store knows of it: whether it fails, and the class of the code */
#define ngx_asana_health_state(s)                                             \
    ((u_char) (((s)->failing ? 16 : 0) + (s)->code / 100))


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
