
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * A position is a number that grows by one, with random bits below it:
 *
 *     63      20 19       0
 *     | number  | random |
 *
 * A journal that was restored or lost commits at a failover goes through the
 * same numbers again, but not through the same positions.
 */


#include "ngx_asana_postgres_record.h"

#include <openssl/rand.h>


/* bits of a position that are random */
#define NGX_ASANA_POSTGRES_RANDOM   20

/* commits that are kept in the journal */
#define NGX_ASANA_POSTGRES_JOURNAL  10000

/* expired secrets that one commit removes */
#define NGX_ASANA_POSTGRES_EXPIRED  512


/* those that are too old were never ended: their host has died */

void
ngx_asana_postgres_record_calls(ngx_asana_sql_t *sql,
    ngx_asana_backend_conf_t *conf, ngx_queue_t *batch, time_t now)
{
    ngx_queue_t       *q;
    ngx_asana_task_t  *task;

    for (q = ngx_queue_head(batch);
         q != ngx_queue_sentinel(batch);
         q = ngx_queue_next(q))
    {
        task = ngx_queue_data(q, ngx_asana_task_t, queue);

        if (task->change.type == NGX_ASANA_CALL) {
            ngx_asana_sql_add(sql, "INSERT INTO asana_hook.creates"
                                   " (zone,call,started) VALUES(");
            ngx_asana_sql_add_name(sql, &conf->zone);
            ngx_asana_sql_add(sql, ",");
            ngx_asana_sql_add_bytes(sql, task->change.id, NGX_ASANA_ID_LEN);
            ngx_asana_sql_add(sql, ",%T) ON CONFLICT DO NOTHING;", now);

        } else if (task->change.type == NGX_ASANA_CALL_END) {
            ngx_asana_sql_add(sql, "DELETE FROM asana_hook.creates WHERE"
                                   " (started<=%T OR call=",
                              now - NGX_ASANA_POSTGRES_CREATE);
            ngx_asana_sql_add_bytes(sql, task->change.id, NGX_ASANA_ID_LEN);
            ngx_asana_sql_add(sql, ") AND zone=");
            ngx_asana_sql_add_name(sql, &conf->zone);
            ngx_asana_sql_add(sql, ";");
        }
    }
}


void
ngx_asana_postgres_record(ngx_asana_sql_t *sql, ngx_asana_rows_t *rows,
    uint64_t position, time_t now)
{
    int64_t               oldest;
    ngx_uint_t            i, n;
    ngx_asana_row_set_t  *set;

    ngx_asana_sql_add(sql, "DELETE FROM asana_hook.secrets WHERE zone=");
    ngx_asana_sql_add_name(sql, &rows->conf->zone);
    ngx_asana_sql_add(sql, " AND (key,id) IN (SELECT key,id FROM"
                           " asana_hook.secrets WHERE pending AND created<=%T"
                           " AND zone=", now - rows->conf->limits.pending);
    ngx_asana_sql_add_name(sql, &rows->conf->zone);
    ngx_asana_sql_add(sql, " LIMIT %d);", NGX_ASANA_POSTGRES_EXPIRED);

    ngx_asana_sql_add(sql, "UPDATE asana_hook.zones SET position=%uL"
                           " WHERE zone=", position);
    ngx_asana_sql_add_name(sql, &rows->conf->zone);

    ngx_asana_sql_add(sql, ";INSERT INTO asana_hook.journal"
                           " (zone,position,keys) VALUES(");
    ngx_asana_sql_add_name(sql, &rows->conf->zone);
    ngx_asana_sql_add(sql, ",%uL,ARRAY[", position);

    n = 0;
    set = rows->sets.elts;

    for (i = 0; i < rows->sets.nelts; i++) {
        if (set[i].changed == 2) {
            ngx_asana_sql_add(sql, n++ ? "," : "");
            ngx_asana_sql_add_bytes(sql, set[i].key.data, set[i].key.len);
        }
    }

    oldest = (int64_t) position
             - ((int64_t) NGX_ASANA_POSTGRES_JOURNAL
                << NGX_ASANA_POSTGRES_RANDOM);

    ngx_asana_sql_add(sql, "]::bytea[]);DELETE FROM asana_hook.journal"
                           " WHERE position<%L AND zone=", oldest);
    ngx_asana_sql_add_name(sql, &rows->conf->zone);
    ngx_asana_sql_add(sql, ";");
}


uint64_t
ngx_asana_postgres_record_next(uint64_t position)
{
    uint64_t  random;

    /* without luck it is a position all the same */

    random = 0;
    (void) RAND_bytes((u_char *) &random, sizeof(random));

    return ((position >> NGX_ASANA_POSTGRES_RANDOM) + 1)
           << NGX_ASANA_POSTGRES_RANDOM
           | (random & ((1 << NGX_ASANA_POSTGRES_RANDOM) - 1));
}
