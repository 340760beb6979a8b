
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_COUNTERS_H_INCLUDED_
#define _NGX_ASANA_COUNTERS_H_INCLUDED_


#include "ngx_asana.h"


/*
 * Numbers in shared memory that all workers change without a lock; all zeroes
 * at the start.
 */

/* what is counted, each by a word of its own */

typedef enum {
    NGX_ASANA_COUNT_HANDSHAKES = 0,
    NGX_ASANA_COUNT_DELIVERIES,
    NGX_ASANA_COUNT_DRY_RUNS,
    NGX_ASANA_COUNT_GATEWAY,
    NGX_ASANA_COUNTS
} ngx_asana_count_e;

/* what Asana gets for a verified delivery; all but SUCCESS is a failure */

typedef enum {
    NGX_ASANA_ANSWER_SUCCESS = 0,
    NGX_ASANA_ANSWER_2XX,           /* but 200 and 204 */
    NGX_ASANA_ANSWER_3XX,
    NGX_ASANA_ANSWER_4XX,
    NGX_ASANA_ANSWER_5XX,
    NGX_ASANA_ANSWER_ABORTED,       /* none that it has taken */
    NGX_ASANA_ANSWERS
} ngx_asana_answer_e;

#define NGX_ASANA_WORDS    24
#define NGX_ASANA_BUCKETS  14
#define NGX_ASANA_CREATES  64
#define NGX_ASANA_HOOKS    8


typedef struct {
    ngx_atomic_t          usec;                         /* of all of them */
    ngx_atomic_t          n[NGX_ASANA_BUCKETS + 1];
} ngx_asana_times_t;


typedef struct {
    ngx_atomic_t          count[NGX_ASANA_COUNTS][NGX_ASANA_WORDS];
    ngx_atomic_t          answers[NGX_ASANA_ANSWERS];
    ngx_atomic_t          hooks[NGX_ASANA_HOOKS];       /* by their health */
    ngx_atomic_t          failing;                      /* since when */
    ngx_atomic_t          tallied;                      /* seconds, as these */
    ngx_atomic_t          tallying;                     /* until when */
    ngx_asana_times_t     commits;                      /* durable ones */
    ngx_atomic_t          lookups;                      /* of the store */
    ngx_asana_times_t     queries;                      /* for look-ups */
    ngx_atomic_t          conflicts;
    ngx_atomic_t          failures;
    ngx_atomic_t          creates[NGX_ASANA_CREATES];   /* until when */
} ngx_asana_counters_t;


/* a create call in flight; all zeroes if it is not */

typedef struct {
    ngx_uint_t            slot;
    ngx_atomic_uint_t     until;
} ngx_asana_create_t;


/* upper bounds of times, microseconds; the last n[] has none */
extern ngx_uint_t  ngx_asana_counters_bounds[];


/* The words of ngx_asana_answer_e, for metrics. */
extern const char  *ngx_asana_counters_answers[];

/* Microseconds of a clock that nobody sets; in any thread, as the next one. */
uint64_t ngx_asana_counters_now(void);

/* Counts what began at that time and ends now. */
void ngx_asana_counters_time(ngx_asana_times_t *times, uint64_t start);

/* How many of them were counted. */
uint64_t ngx_asana_counters_total(ngx_asana_times_t *times);

/*
 * A create call begins, and ends.  Nothing keeps the door of the policy
 * "gateway" open: neither a worker that died nor a call that was lost, for
 * each counts for a minute at most.
 */
void ngx_asana_counters_create_begin(ngx_asana_counters_t *counters,
    ngx_asana_create_t *create);
void ngx_asana_counters_create_end(ngx_asana_counters_t *counters,
    ngx_asana_create_t *create);

/* Whether any worker of this nginx has a create call in flight. */
ngx_uint_t ngx_asana_counters_creating(ngx_asana_counters_t *counters);


#endif /* _NGX_ASANA_COUNTERS_H_INCLUDED_ */
