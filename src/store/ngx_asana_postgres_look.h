
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_POSTGRES_LOOK_H_INCLUDED_
#define _NGX_ASANA_POSTGRES_LOOK_H_INCLUDED_


#include "ngx_asana_pq.h"
#include "ngx_asana_rows.h"


typedef struct {
    ngx_str_t               key;
    uint64_t                position;
} ngx_asana_postgres_changed_t;


/* What is asked in one round trip, and what is answered. */

typedef struct {
    ngx_pool_t             *pool;
    ngx_asana_rows_t        rows;       /* keys to be looked up */
    ngx_asana_rows_t        page;       /* of a listing */
    ngx_uint_t              limit;      /* its keys at most, 0: there is none */
    ngx_str_t               after;
    ngx_uint_t              poll;       /* 1: the journal is read as well */
    ngx_uint_t              count;      /* 1: the secrets are counted */
    uint64_t                from;       /* the journal is known up to here */
    uint64_t                ahead;      /* commits of this host are up to */
    uint64_t                version;    /* of the cache */

    ngx_int_t               rc;         /* NGX_OK, NGX_ERROR */
    ngx_msec_t              started;
    uint64_t                read;       /* position at which keys were read */
    uint64_t                position;   /* the journal is known up to here */
    ngx_uint_t              gap;        /* 1: other keys may have changed */
    ngx_uint_t              more;       /* 1: there is more in the journal */
    ngx_array_t             changed;    /* ngx_asana_postgres_changed_t */
    ngx_asana_stat_t        stat;
} ngx_asana_postgres_look_t;


/* Starts with nothing to ask; NGX_ERROR if there is no memory. */
ngx_int_t ngx_asana_postgres_look_init(ngx_asana_postgres_look_t *look,
    ngx_asana_backend_conf_t *conf, ngx_log_t *log);

/* Asks for a page as well, of which nothing is kept but a copy of its key. */
ngx_int_t ngx_asana_postgres_look_list(ngx_asana_postgres_look_t *look,
    ngx_asana_listing_t *listing);

/* Overwrites what was answered. */
void ngx_asana_postgres_look_wipe(ngx_asana_postgres_look_t *look);

/* In the thread: asks, and sets the answers. */
void ngx_asana_postgres_look(ngx_asana_pq_t *pq,
    ngx_asana_postgres_look_t *look);

/*
 * Gives a look-up what was answered for its key; lookup->rc is NGX_ERROR if it
 * is not known.
 */
void ngx_asana_postgres_look_answer(
    ngx_asana_postgres_look_t *look, ngx_asana_lookup_t *lookup);

/*
 * Visits what was answered for a page, as list() of a backend does.  A key
 * whose secrets cannot be read was told of, and is left out.
 */
ngx_int_t ngx_asana_postgres_look_visit(ngx_asana_postgres_look_t *look,
    ngx_asana_listing_t *listing);

/* As walk() of a backend, by this connection. */
ngx_int_t ngx_asana_postgres_look_walk(ngx_asana_pq_t *pq,
    ngx_asana_backend_conf_t *conf, ngx_asana_listing_t *listing,
    ngx_log_t *log);


#endif /* _NGX_ASANA_POSTGRES_LOOK_H_INCLUDED_ */
