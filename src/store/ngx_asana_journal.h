
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_JOURNAL_H_INCLUDED_
#define _NGX_ASANA_JOURNAL_H_INCLUDED_


#include "ngx_asana_backend.h"
#include "ngx_asana_postgres_look.h"


/*
 * How far the workers of this nginx have followed the journal of the database.
 * All functions are called in the main thread.
 */

typedef struct {
    ngx_asana_backend_conf_t  *conf;
    ngx_atomic_t              *shared;     /* [NGX_ASANA_SHARED] */
    ngx_atomic_t               own[NGX_ASANA_SHARED];
} ngx_asana_journal_t;


void ngx_asana_journal_init(ngx_asana_journal_t *journal,
    ngx_asana_backend_conf_t *conf);

/* As version() of a backend: the one that entries of the zone must have. */
uint64_t ngx_asana_journal_version(ngx_asana_journal_t *journal);

/* Whether the journal was read lately. */
ngx_uint_t ngx_asana_journal_alive(ngx_asana_journal_t *journal);

/* When any worker has read it with success. */
ngx_msec_t ngx_asana_journal_contact(ngx_asana_journal_t *journal);

/* When any worker has read it, or committed something. */
ngx_msec_t ngx_asana_journal_heard(ngx_asana_journal_t *journal);

/* Milliseconds until it is to be read again. */
ngx_msec_t ngx_asana_journal_due(ngx_asana_journal_t *journal);

/* 1: this worker is to read it, and is to call read() then. */
ngx_uint_t ngx_asana_journal_claim(ngx_asana_journal_t *journal);

/* Sets what a look is to remember: the version, and two positions. */
void ngx_asana_journal_look(ngx_asana_journal_t *journal,
    ngx_asana_postgres_look_t *look);

/* Takes over what was read, and lets the zone forget. */
void ngx_asana_journal_read(ngx_asana_journal_t *journal,
    ngx_asana_postgres_look_t *look);

/* This worker has committed something at this position, 0: nothing. */
void ngx_asana_journal_committed(ngx_asana_journal_t *journal,
    uint64_t position);

/* The word that moves before the zone forgets what was changed up to there. */
ngx_atomic_t *ngx_asana_journal_ahead(ngx_asana_journal_t *journal);


#endif /* _NGX_ASANA_JOURNAL_H_INCLUDED_ */
