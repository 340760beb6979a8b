
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_SQL_H_INCLUDED_
#define _NGX_ASANA_SQL_H_INCLUDED_


#include "ngx_asana.h"

#include <libpq-fe.h>


/* Statements that are sent together, in memory of the pool. */

typedef struct {
    ngx_pool_t             *pool;
    u_char                 *start;
    u_char                 *last;
    u_char                 *end;     /* NULL: there was no memory */
} ngx_asana_sql_t;


void ngx_asana_sql_init(ngx_asana_sql_t *sql, ngx_pool_t *pool);

/* Appends as ngx_sprintf() does; what is inserted are numbers alone. */
void ngx_asana_sql_add(ngx_asana_sql_t *sql, const char *fmt, ...);

/* Appends what is in the other one. */
void ngx_asana_sql_append(ngx_asana_sql_t *sql, ngx_asana_sql_t *other);

/* Appends an expression of type bytea, or text. */
void ngx_asana_sql_add_bytes(ngx_asana_sql_t *sql, u_char *p, size_t len);
void ngx_asana_sql_add_name(ngx_asana_sql_t *sql, ngx_str_t *name);

/*
 * What is in a field of a result: a number, or a time, 0 if there is none; or
 * bytes, encoded as hex digits, at most size of them, whose number is returned,
 * or NGX_ERROR.
 */
int64_t ngx_asana_sql_number(PGresult *res, int row, int column);
time_t ngx_asana_sql_time(PGresult *res, int row, int column);
ssize_t ngx_asana_sql_bytes(PGresult *res, int row, int column, u_char *buf,
    size_t size);


#endif /* _NGX_ASANA_SQL_H_INCLUDED_ */
