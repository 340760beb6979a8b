
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_URI_H_INCLUDED_
#define _NGX_ASANA_URI_H_INCLUDED_


#include "ngx_asana_backend.h"

#include <libpq-fe.h>


/* The URI in conf->state, as libpq's connection strings have it. */

/* Checks it, at configuration time; connects to nothing.  NULL, or what is
 * wrong with it. */
const char *ngx_asana_uri_check(ngx_asana_backend_conf_t *conf);

/*
 * Begins to connect, in any thread, and to another one of several servers for
 * each number of "attempts" that failed before.  Waits for nothing but for
 * the name server.  What it returns goes to PQfinish(); NULL: no memory, or
 * the URI is not valid.
 */
PGconn *ngx_asana_uri_start(ngx_asana_backend_conf_t *conf,
    ngx_uint_t attempts);


#endif /* _NGX_ASANA_URI_H_INCLUDED_ */
