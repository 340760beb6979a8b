
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_conf.h"


static ngx_http_asana_zone_conf_t *ngx_http_asana_conf_before(
    ngx_shm_zone_t *shm_zone);
static ngx_int_t ngx_http_asana_conf_unique(
    ngx_http_asana_zone_conf_t *azcf, ngx_log_t *log);


ngx_int_t
ngx_http_asana_conf_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_asana_zone_conf_t *old = data;

    ngx_uint_t                   resized;
    ngx_http_asana_zone_conf_t  *azcf;

    azcf = shm_zone->data;

    if (azcf->path
        && ngx_http_asana_conf_unique(azcf, shm_zone->shm.log) != NGX_OK)
    {
        return NGX_ERROR;
    }

    resized = (old == NULL);

    if (resized) {
        old = ngx_http_asana_conf_before(shm_zone);
    }

    if (old
        && (ngx_strcmp(azcf->key.value.data, old->key.value.data) != 0
            || ngx_strcmp(azcf->store.state.data, old->store.state.data)
               != 0))
    {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "asana_hook_zone \"%V\" uses the key \"%V\" and "
                      "the state \"%V\" while it lives with the key "
                      "\"%V\" and the state \"%V\"; give the changed "
                      "zone another name, or restart nginx",
                      &shm_zone->shm.name, &azcf->key.value,
                      &azcf->store.state, &old->key.value, &old->store.state);
        return NGX_ERROR;
    }

    return ngx_asana_zone_init(azcf->zone, shm_zone, old ? old->zone : NULL,
                               resized);
}


/* nginx gives a zone of another size no data; NULL: there was no such zone */

static ngx_http_asana_zone_conf_t *
ngx_http_asana_conf_before(ngx_shm_zone_t *shm_zone)
{
    ngx_uint_t        i;
    ngx_shm_zone_t   *old;
    ngx_list_part_t  *part;

    for (part = (ngx_list_part_t *) &ngx_cycle->shared_memory.part;
         part;
         part = part->next)
    {
        old = part->elts;

        for (i = 0; i < part->nelts; i++) {
            if (&old[i] != shm_zone
                && old[i].tag == shm_zone->tag
                && old[i].shm.name.len == shm_zone->shm.name.len
                && ngx_strncmp(old[i].shm.name.data, shm_zone->shm.name.data,
                               shm_zone->shm.name.len)
                   == 0)
            {
                return old[i].data;
            }
        }
    }

    return NULL;
}


/*
 * LMDB's locks break if one process opens the same files twice: a symbolic
 * link must not make two zones of one store.
 */

static ngx_int_t
ngx_http_asana_conf_unique(ngx_http_asana_zone_conf_t *azcf, ngx_log_t *log)
{
    ngx_str_t                    *name;
    ngx_uint_t                    i;
    ngx_file_info_t               fi, other;
    ngx_http_asana_zone_conf_t  **zones;

    name = &azcf->path->name;

    if (ngx_file_info(name->data, &fi) == NGX_FILE_ERROR) {
        goto failed;
    }

    zones = azcf->zones->elts;

    for (i = 0; zones[i] != azcf; i++) {

        if (zones[i]->path == NULL) {
            continue;
        }

        name = &zones[i]->path->name;

        if (ngx_file_info(name->data, &other) == NGX_FILE_ERROR) {
            goto failed;
        }

        if (ngx_file_uniq(&fi) != ngx_file_uniq(&other)
            || fi.st_dev != other.st_dev)
        {
            continue;
        }

        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "\"asana_hook_zone\" parameter \"state=%V\" is already "
                      "used by the zone \"%V\", as \"%V\"",
                      &azcf->path->name, &zones[i]->name, name);
        return NGX_ERROR;
    }

    return NGX_OK;

failed:

    ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                  ngx_file_info_n " \"%V\" failed", name);

    return NGX_ERROR;
}


char *
ngx_http_asana_conf_named(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t        *value;
    ngx_shm_zone_t  **shm_zone;

    shm_zone = (ngx_shm_zone_t **) ((u_char *) conf + cmd->offset);

    if (*shm_zone != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        *shm_zone = NULL;
        return NGX_CONF_OK;
    }

    if (value[1].len == 0) {
        return "has an empty zone name";
    }

    *shm_zone = ngx_shared_memory_add(cf, &value[1], 0,
                                      &ngx_http_asana_hook_module);
    if (*shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_asana_conf_enroll(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_asana_loc_conf_t *ahcf = conf;

    char                *rv;
    ngx_str_t           *value;
    ngx_asana_enroll_e   enroll;

    rv = ngx_http_set_complex_value_slot(cf, cmd, conf);

    if (rv != NGX_CONF_OK || ahcf->enroll->lengths) {
        return rv;
    }

    value = cf->args->elts;

    if (ngx_asana_policy_enroll(&value[1], &enroll) == NGX_OK) {
        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid value \"%V\" in \"asana_hook_enroll\", it "
                       "must be \"first\", \"open\", \"confirm\", \"gateway\" "
                       "or \"off\"", &value[1]);

    return NGX_CONF_ERROR;
}


char *
ngx_http_asana_conf_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_asana_loc_conf_t *ahcf = conf;

    ngx_int_t   n;
    ngx_str_t  *value;

    if (ahcf->status != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    n = ngx_atoi(value[1].data, value[1].len);

    /*
     * To Asana 410 says that the webhook may be deleted; nginx answers nothing
     * to 408, 444 and 499, and has a use of its own for 494 to 498.
     */

    if (n < 400 || n > 599
        || n == 408 || n == 410 || n == 444 || (n >= 494 && n <= 499))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"asana_hook_status\", it "
                           "must be 400 to 599, but not 408, 410, 444 or 494 "
                           "to 499", &value[1]);
        return NGX_CONF_ERROR;
    }

    ahcf->status = n;

    return NGX_CONF_OK;
}


char *
ngx_http_asana_conf_enum(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    u_char           *p;
    u_char            allowed[64];
    ngx_str_t        *value;
    ngx_uint_t       *np;
    ngx_conf_enum_t  *e;

    np = (ngx_uint_t *) ((u_char *) conf + cmd->offset);

    if (*np != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (e = cmd->post; e->name.len; e++) {
        if (ngx_strcmp(e->name.data, value[1].data) == 0) {
            *np = e->value;
            return NGX_CONF_OK;
        }
    }

    p = allowed;

    for (e = cmd->post; e->name.len; e++) {
        p = ngx_sprintf(p, " \"%V\"", &e->name);
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid value \"%V\" in \"%V\" directive, it must be "
                       "one of%*s", &value[1], &cmd->name,
                       (size_t) (p - allowed), allowed);

    return NGX_CONF_ERROR;
}
