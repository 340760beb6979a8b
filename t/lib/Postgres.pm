package Postgres;

# A PostgreSQL in a directory of its own, as Debian's package has it, and
# drivers (t/lib/postgres_driver.c) that use it as workers of hosts do.
#
#     my $pg = Postgres->new;                  with share/asana_hook.sql;
#                                              stopped => 1: without a server
#     my $a  = $pg->driver(name => 'a');       a host of its own
#     is $a->ask('find /key 1'), 'DECLINED', 'no secret';
#     my $other = $pg->standby;                each commit waits for it, until
#     $pg->kill9;                              it is the primary
#     $other->promote;
#     $pg->follow($other);                     and the other way around

use strict;
use warnings;

use Cwd qw(getcwd);
use Fcntl qw(LOCK_EX);
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Handle;
use IO::Select;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

use Receiver qw(port wait_for);

my $bin = (sort { $b cmp $a } glob '/usr/lib/postgresql/*/bin')[0] || '';

# What is missing on this system, if anything is.

sub missing {
    return 'needs PostgreSQL (postgresql on Debian)' if !-x "$bin/initdb";
    return 'needs libpq (libpq-dev on Debian)'
        if !-f '/usr/include/postgresql/libpq-fe.h';
    return;
}

# Skips a test file where there is no PostgreSQL, or no libpq.

sub usable {
    my $missing = missing();
    plan skip_all => $missing if $missing;
    return;
}

sub new {
    my ($class, %opt) = @_;
    my $self = bless {
        dir  => tempdir('asana-hook-pg-XXXXXX', TMPDIR => 1),
        port => port(),
        pid  => $$,
        %opt
    }, $class;
    my $dir = $self->{dir};
    $self->key_file('key');
    return $self if $opt{stopped};
    chmod 0755, $dir;
    mkdir "$dir/pg";
    my @user = getpwnam 'postgres';
    $self->{user} = $> ? [$>, $)] : [@user[2, 3]];
    chown @{$self->{user}}, "$dir/pg";
    $self->as('initdb', '-D', "$dir/pg/data", qw(-A trust -U postgres
            --no-sync --no-locale -E UTF8)) == 0 or die "initdb failed\n";
    $self->append('postgresql.conf', <<"CONF");
port = $self->{port}
listen_addresses = '127.0.0.1'
unix_socket_directories = '$dir/pg'
shared_buffers = 16MB
log_statement = all
log_min_duration_statement = 0
CONF
    $self->start;
    $self->sql('CREATE DATABASE hooks');
    $self->script for 1, 2;
    return $self;
}

sub append {
    my ($self, $file, $text) = @_;
    open my $f, '>>', "$self->{dir}/pg/data/$file" or die "$file: $!\n";
    print {$f} $text;
    close $f or die "$file: $!\n";
    return;
}

# Runs a program of PostgreSQL as a user that is not root.

sub child {
    my ($self, @command) = @_;
    my $pid = fork;
    die "fork: $!\n" if !defined $pid;
    return $pid if $pid;
    open STDIN,  '<',  '/dev/null';
    open STDOUT, '>>', "$self->{dir}/log";
    open STDERR, '>&', \*STDOUT;
    POSIX::setgid($self->{user}[1]);
    POSIX::setuid($self->{user}[0]);
    chdir '/';
    exec "$bin/$command[0]", @command[1 .. $#command] or POSIX::_exit(127);
}

sub as {
    my ($self, @command) = @_;
    waitpid $self->child(@command), 0;
    return $?;
}

sub start {
    my ($self) = @_;
    $self->{server} = $self->child('postgres', '-D', "$self->{dir}/pg/data");
    wait_for(sub { $self->sql('SELECT 1', 'postgres', 1) eq '1' })
        or die "PostgreSQL does not start: $self->{dir}/log\n";
    return $self;
}

sub stop {
    my ($self, $signal) = @_;
    return $self if !$self->{server};
    kill $signal || 'INT', $self->{server};
    waitpid delete $self->{server}, 0;
    return $self;
}

# As after a crash of the machine: nothing is told to anybody.

sub crash { return $_[0]->stop('QUIT') }

# It and all of its processes at once.

sub kill9 {
    my ($self) = @_;
    my @pids = ($self->{server}, $self->children);
    kill 'KILL', @pids;
    waitpid delete $self->{server}, 0;
    wait_for(sub { Receiver::gone(@pids) });
    return $self;
}

# A streaming standby that commits wait for.

sub standby {
    my ($self) = @_;
    my $other = bless {
        dir  => tempdir('asana-hook-pg-XXXXXX', TMPDIR => 1),
        port => port(),
        pid  => $$,
        user => $self->{user}
    }, ref $self;
    chmod 0755, $other->{dir};
    mkdir "$other->{dir}/pg";
    chown @{$self->{user}}, "$other->{dir}/pg";
    return $other->follow($self);
}

# Begins anew as a copy of the other one.

sub follow {
    my ($self, $primary) = @_;
    my $dir = "$self->{dir}/pg";
    remove_tree("$dir/data");
    $self->as('pg_basebackup', '-D', "$dir/data", '-R', '-d',
        "host=127.0.0.1 port=$primary->{port} user=postgres",
        qw(-X stream -c fast --no-sync)) == 0
        or die "pg_basebackup failed: $self->{dir}/log\n";
    $self->append('postgresql.conf', <<"CONF");
port = $self->{port}
unix_socket_directories = '$dir'
wal_retrieve_retry_interval = 100ms
synchronous_standby_names = ''
CONF
    $self->start;
    $primary->append('postgresql.conf', "synchronous_standby_names = '*'\n");
    $primary->sql('SELECT pg_reload_conf()');
    $primary->synchronous or die "no synchronous standby: $self->{dir}/log\n";
    return $self;
}

sub synchronous {
    my ($self) = @_;
    return wait_for(sub { $self->sql(q{SELECT count(*) FROM pg_stat_replication
        WHERE sync_state = 'sync'}, 'postgres', 1) eq '1' });
}

sub promote {
    my ($self) = @_;
    return $self->sql('SELECT pg_promote()', 'postgres') eq 't';
}

sub children {
    my ($self) = @_;
    return grep {/\S/} split /\s+/, qx(pgrep -P $self->{server});
}

sub freeze { my ($self) = @_; return kill 'STOP', $self->{server}, $self->children }
sub thaw   { my ($self) = @_; return kill 'CONT', $self->{server}, $self->children }

sub sql {
    my ($self, $sql, $db, $quiet) = @_;
    my $pid = open my $out, '-|';
    if (!$pid) {
        open STDERR, '>', '/dev/null' if $quiet;
        exec "$bin/psql", qw(-XAtq -v ON_ERROR_STOP=1 -U postgres -h),
            '127.0.0.1', '-p', $self->{port}, '-d',
            $db || ($sql =~ /DATABASE/ ? 'postgres' : 'hooks'), '-c', $sql;
    }
    my $text = do { local $/ = undef; <$out> };
    close $out;
    chomp $text;
    return $text;
}

sub script {
    my ($self) = @_;
    system("$bin/psql -Xq -v ON_ERROR_STOP=1 -U postgres -h 127.0.0.1"
            . " -p $self->{port} -d hooks -f share/asana_hook.sql"
            . " >>$self->{dir}/log 2>&1") == 0
        or die "asana_hook.sql failed: $self->{dir}/log\n";
    return;
}

sub key_file {
    my ($self, $name, @keys) = @_;
    my $file = "$self->{dir}/$name";
    @keys = (1) if !@keys;
    open my $f, '>', $file or die "$file: $!\n";
    print {$f} map { unpack('H2', chr) x 32, "\n" } @keys;
    close $f or die "$file: $!\n";
    chmod 0600, $file;
    return $file;
}

sub uri {
    my ($self, $port) = @_;
    return 'postgresql://asana_hook@127.0.0.1:' . ($port || $self->{port})
        . '/hooks';
}

sub log {    ## no critic (ProhibitBuiltinHomonyms)
    my ($self) = @_;
    open my $f, '<', "$self->{dir}/log" or die "log: $!\n";
    local $/ = undef;
    return <$f>;
}

# Builds the driver, with sanitizers where there are some.

my $driver;

sub build {
    return $driver if $driver;

    # files of tests run side by side
    mkdir 'build/postgres';
    open my $lock, '>', 'build/postgres/lock' or die "lock: $!\n";
    flock $lock, LOCK_EX or die "lock: $!\n";

    my ($tree) = grep { -f "$_/objs/ngx_auto_config.h" }
        map {"build/$_/nginx"} qw(module asan static);
    die "no nginx is configured: run make\n" if !$tree;
    my $cwd = getcwd();
    system("make -s $cwd/build/nginx >/dev/null") == 0
        or die "no source of nginx\n";
    my $cc   = $ENV{CC} || 'cc';
    my $incs = qx(tools/nginx-flags $tree incs);
    my @src  = (
        't/lib/postgres_driver.c',
        glob('src/ngx_asana_*.c'),
        (grep { !/lmdb/ } glob 'src/store/ngx_asana_*.c'),
        map {"build/nginx/src/$_.c"} qw(core/ngx_palloc core/ngx_string
            core/ngx_array core/ngx_hash core/ngx_murmurhash
            core/ngx_rbtree core/ngx_queue
            core/ngx_slab core/ngx_shmtx core/ngx_times
            os/unix/ngx_alloc os/unix/ngx_errno os/unix/ngx_time
            os/unix/ngx_files event/ngx_event_timer)
    );
    my $kind = $ENV{ASANA_HOOK_SANITIZE} // 'address';
    my $sanitize = $kind ? "-fsanitize=$kind" : '';
    my $file = "build/postgres/driver$kind";
    my $newest = (sort { $a <=> $b } map { (stat)[9] } @src,
        glob 'src/*.h src/store/*.h')[-1];
    return $driver = $file if -x $file && (stat _)[9] > $newest;
    my $out = qx($cc -g -O1 -D_GNU_SOURCE -DNGX_DEBUG_PALLOC=1 -Wall -Wextra \\
        -Werror -Wno-unused-parameter $sanitize -ffunction-sections \\
        -fdata-sections -Wl,--gc-sections -Isrc -Isrc/store $incs \\
        -isystem /usr/include/postgresql @src -o $file \\
        -lpq -lcrypto -lpthread 2>&1);
    die $out if $?;
    return $driver = $file;
}

# Options: name, uri, zone, poll, timeout (milliseconds), stale (seconds), key,
# host: those with the same one share the zone's memory.

sub driver {
    my ($self, %opt) = @_;
    my $name = $opt{name};
    my $host = $opt{host} || $name;
    my @args = (
        $opt{uri} || $self->uri,
        $opt{key} || "$self->{dir}/key",
        $opt{zone}    || 'hooks',
        $opt{poll}    || 300,
        $opt{timeout} || 2000,
        $opt{stale}   || 60,
        "$self->{dir}/shm.$host"
    );
    my $program = build();
    pipe my $in,  my $to   or die "pipe: $!\n";
    pipe my $from, my $out or die "pipe: $!\n";
    my $pid = fork;
    die "fork: $!\n" if !defined $pid;
    if (!$pid) {
        open STDIN,  '<&', $in;
        open STDOUT, '>&', $out;
        open STDERR, '>>', "$self->{dir}/error.$name";
        $ENV{ASAN_OPTIONS} = 'detect_leaks=1';
        exec $program, @args or POSIX::_exit(127);
    }
    close $in;
    close $out;
    $to->autoflush(1);
    my $d = bless {
        pid   => $pid,
        to    => $to,
        from  => $from,
        buf   => '',
        seen  => {},
        tag   => 0,
        error => "$self->{dir}/error.$name"
    }, 'Postgres::Driver';
    push @{$self->{drivers}}, $d;
    return $d;
}

sub end {
    my ($self) = @_;
    for my $d (@{$self->{drivers} || []}) {
        $d->quit if $d->{pid};
    }
    $self->stop;
    remove_tree($self->{dir}) if !$ENV{ASANA_HOOK_KEEP};
    return;
}

sub DESTROY {
    my ($self) = @_;
    return if $$ != $self->{pid};
    local $? = 0;
    for my $d (@{$self->{drivers} || []}) {
        kill 'KILL', $d->{pid} if $d->{pid};
    }
    if ($self->{server}) {
        $self->thaw;
        $self->stop('QUIT');
    }
    return;
}

package Postgres::Driver;    ## no critic (ProhibitMultiplePackages)

use Time::HiRes qw(time);

# Sends a command and returns its tag; the answer is for wait().

sub send {    ## no critic (ProhibitBuiltinHomonyms)
    my ($self, $command) = @_;
    my $tag = 't' . ++$self->{tag};
    print {$self->{to}} "$tag $command\n" or return $tag;
    return $tag;
}

sub wait {    ## no critic (ProhibitBuiltinHomonyms)
    my ($self, $tag, $seconds) = @_;
    my $end = time + ($seconds || 15);
    while (!exists $self->{seen}{$tag}) {
        my $left = $end - time;
        return 'no answer'
            if $left <= 0
            || !IO::Select->new($self->{from})->can_read($left)
            || !sysread $self->{from}, $self->{buf}, 65536,
            length $self->{buf};
        while ($self->{buf} =~ s/^(\S+) ([^\n]*)\n//) {
            $self->{seen}{$1} = $2;
        }
    }
    return delete $self->{seen}{$tag};
}

sub ask { my ($self, $command) = @_; return $self->wait($self->send($command)) }

# How long it took to close, in milliseconds.

sub quit {
    my ($self) = @_;
    print {$self->{to}} "x quit\n";
    my $text = $self->wait('closed');
    waitpid delete $self->{pid}, 0;
    Test::More::is($?, 0, 'the driver ends well')
        or Test::More::diag($self->log);
    return $text =~ /(\d+)/ ? $1 : -1;
}

sub crash {
    my ($self) = @_;
    kill 'KILL', $self->{pid};
    waitpid delete $self->{pid}, 0;
    return;
}

sub log {    ## no critic (ProhibitBuiltinHomonyms)
    my ($self) = @_;
    open my $f, '<', $self->{error} or return '';
    local $/ = undef;
    return <$f>;
}

1;
