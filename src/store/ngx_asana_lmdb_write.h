
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_WRITE_H_INCLUDED_
#define _NGX_ASANA_LMDB_WRITE_H_INCLUDED_


#include "ngx_asana_lmdb_env.h"


/*
 * In the thread: carries out the tasks of a batch, which is not empty, and
 * sets their outcomes; errors are logged.  MDB_MAP_FULL: the map is to grow,
 * MDB_MAP_RESIZED: to be taken over from another process, and the batch is to
 * be given again then.  MDB_PANIC: the environment is of no use any more.
 */
int ngx_asana_lmdb_write(ngx_asana_lmdb_env_t *e, ngx_queue_t *batch,
    ngx_log_t *log);


#endif /* _NGX_ASANA_LMDB_WRITE_H_INCLUDED_ */
