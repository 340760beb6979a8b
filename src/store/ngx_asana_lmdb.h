
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_LMDB_H_INCLUDED_
#define _NGX_ASANA_LMDB_H_INCLUDED_


#include "ngx_asana_backend.h"


/* a store in a directory of this host, shared by all its processes */
extern ngx_asana_backend_t  ngx_asana_lmdb;


#endif /* _NGX_ASANA_LMDB_H_INCLUDED_ */
