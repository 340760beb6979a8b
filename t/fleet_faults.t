# Tests for the table of failures in docs/operation.md: what each of them makes
# of handshakes, deliveries and the API, and the text that it puts into the log.

use strict;
use warnings;

use lib 't/lib';

use File::Copy qw(copy);
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep);

use Postgres;
use Receiver qw(port secret_id wait_for);
use Relay;
use Slurp;

Postgres->usable;

plan skip_all => 'make found no libpq'
    if !$ENV{ASANA_HOOK_STATIC}
    && !-f 'build/ngx_http_asana_hook_postgres_module.so';

my ($bouncer) = grep {-x} map {"$_/pgbouncer"} split(/:/, $ENV{PATH}),
    '/usr/sbin';

# The table: what happened, texts of the log, answers.  A text is a pattern, in
# which "…" and names in capitals stand for something.

my (%row, @order, %seen);
{
    my ($chapter)
        = slurp('docs/operation.md') =~ /^## When PostgreSQL fails\n(.*?)^## /ms;
    for my $line ($chapter =~ /^\| (.*) \|$/mg) {
        my ($what, $log, $answers) = split / \| /, $line;
        next if $what =~ /^(?:---|what happened)/;
        my @texts;
        my $level;
        for my $text ($log =~ /`([^`]+)`/g) {
            if ($text =~ /^(?:crit|warn|emerg)$/) {
                $level = $text;
                next;
            }
            my $pattern = join '.*',
                map { quotemeta =~ s/key\\ \KID/[0-9a-f]{8}/r } split /…/, $text, -1;
            push @texts, {
                text    => $text,
                pattern => $level
                ? qr/\[$level\].*$pattern/
                : qr/\[crit\].*: PostgreSQL failed: ".*$pattern/
            };
        }
        push @order, $what;
        $row{$what} = {texts => \@texts, log => $log, answers => $answers};
    }
}
push @{$row{$_}{texts}}, @{$row{$order[0]}{texts}}
    for grep { $row{$_}{log} =~ /the same|the text of/ } @order;
cmp_ok scalar @order, '>', 20, 'a table of failures';

# the server, with TLS and passwords

my $pg  = Postgres->new;
my $dir = $pg->{dir};

sub run {
    my (@command) = @_;
    my $said = qx(cd $dir && { @command; } 2>&1);
    die "@command: $said\n" if $?;
    return;
}

sub certificates {
    my $new = 'openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes';
    run("$new -x509 -days 9 -subj /CN=$_ -keyout $_.key -out $_.pem")
        for qw(ca stranger);
    run("$new -subj /CN=localhost -keyout server.key -out server.csr");
    for (['good', 'ca', 9], ['expired', 'ca', -1], ['alien', 'stranger', 9]) {
        my ($name, $ca, $days) = @$_;
        run("openssl x509 -req -in server.csr -CA $ca.pem -CAkey $ca.key"
                . " -CAcreateserial -days $days -out $name.pem");
    }
    return;
}

# What belongs to the server, as a file of its data.

sub install {
    my ($from, $name) = @_;
    my $to = "$dir/pg/data/$name";
    copy("$dir/$from", "$to.new") or die "$to: $!\n";
    chmod 0600, "$to.new";
    chown @{$pg->{user}}, "$to.new" if !$>;
    rename "$to.new", $to or die "$to: $!\n";
    return;
}

sub write_file {
    my ($name, $text) = @_;
    open my $f, '>', "$dir/$name" or die "$name: $!\n";
    print {$f} $text;
    close $f or die "$name: $!\n";
    chmod 0644, "$dir/$name";
    return;
}

sub hba {
    my (@lines) = @_;
    write_file('hba', join "\n", 'host all postgres 127.0.0.1/32 trust',
        'host replication postgres 127.0.0.1/32 trust', @lines, q{});
    install('hba', 'pg_hba.conf');
    return;
}

sub password {
    my ($password) = @_;
    write_file('pass', "*:*:*:*:$password\n");
    chmod 0600, "$dir/pass";
    chown((getpwnam 'www-data')[2], -1, "$dir/pass") if !$>;
    return;
}

sub reconfigure { $pg->sql('SELECT pg_reload_conf()'); return sleep 0.1 }

# All hosts have to connect anew.

sub disconnect {
    $pg->sql(q{SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
        WHERE usename = 'asana_hook'});
    return;
}

my $rule = 'hostssl all asana_hook 127.0.0.1/32 scram-sha-256';
certificates();
install($_->[0], $_->[1])
    for ['good.pem', 'server.crt'], ['server.key', 'server.key'];
chmod 0644, "$dir/ca.pem";
hba($rule);
password('plain-password');
$pg->append('postgresql.conf', "ssl = on\nwal_level = replica\n");
reconfigure();
$pg->sql(q{ALTER ROLE asana_hook PASSWORD 'plain-password'});

sub uri {
    my (@ports) = @_;
    @ports = ($pg->{port}) if !@ports;
    return sprintf 'postgresql://asana_hook@%s/hooks?hostaddr=%s'
        . '&sslmode=verify-full&sslrootcert=%s&passfile=%s',
        join(',', map {"localhost:$_"} @ports),
        join(',', map {'127.0.0.1'} @ports), "$dir/ca.pem", "$dir/pass";
}

# hosts

my $body  = '{"events":[{"action":"changed"}]}';
my $fresh = 0;
sub secret { return sprintf 'plain-secret-%020d', ++$fresh }

sub host {
    my (%opt) = @_;
    my $key = $opt{key} || "$dir/key";
    return Receiver->new(
        fleet  => $opt{uri} || uri(),
        zone   => "encryption_key=$key poll=100ms timeout=600ms "
            . ($opt{zone} || ''),
        server => 'location /api { asana_hook_api hooks write=on; }',
        expect => $opt{expect}
    )->app->run;
}

# One that is well, and has the known secret in its zone.

sub well {
    my $host = host(@_);
    my $n    = ++$fresh;
    ($host->{path}, $host->{known}) = ("/known$n", secret());
    wait_for(sub {
        $host->handshake($host->{path}, $host->{known})->{status} == 200;
    }, 5) or diag 'no handshake';
    # the journal names it, and the zone forgets it once
    my $lookups = -1;
    wait_for(sub {
        sleep 0.12;
        $host->deliver($host->{path}, $host->{known}, $body);
        my $before = $lookups;
        ($lookups) = $host->call('GET', '/api')->{body} =~ /"lookups":(\d+)/;
        return $lookups == $before;
    }, 5) or diag 'not in the zone';
    return $host;
}

# Answers to a handshake, to deliveries with a known secret and with an unknown
# key, to GET of a key and of the zone.

sub answers {
    my ($host) = @_;
    $fresh++;
    my ($path, $secret) = ($host->{path} || '/known', $host->{known} || secret());
    return join ' ', map { $_->{status} }
        $host->handshake("/new$fresh", secret()),
        $host->deliver($path, $secret, $body),
        $host->deliver("/unknown$fresh", $secret, $body),
        $host->call('GET', "/api/hooks?key=localhost$path"),
        $host->call('GET', '/api');
}

my ($above, $usual) = ('503 200 503 503 200', '200 200 403 200 200');

# Whether one of the texts is in its log.

sub logged {
    my ($host, @texts) = @_;
    my $log = $host->slurp('error.log');
    my @there = grep { $log =~ $_->{pattern} } @texts;
    $_->{seen} = 1 for @there;
    return @there > 0;
}

# The row whose first column begins with the text: its answers, and one of its
# texts in the log, the nth if n is there.

sub row {
    my ($what, $host, $want, $nth) = @_;
    my ($name) = grep { index($_, $what) == 0 } @order;
    ok $name, "$what is in the table" or return;
    my $row = $row{$name};
    $seen{$name}++;
    is answers($host), $want || $above, "$name: answers";
    ok $row->{answers} =~ /^as above/ || $want, "$name: the page agrees";
    my @texts = @{$row->{texts}};
    @texts = $texts[$nth] if defined $nth;
    ok !@texts || wait_for(sub { logged($host, @texts) }, 5),
        "$name: in the log"
        or diag join "\n", (map { $_->{text} } @texts),
        $host->slurp('error.log') =~ /^.*\[(?:crit|warn|emerg)\].*$/mg;
    return;
}

# A row that ends with it.

sub failure {
    my ($what, $host, $want, $nth) = @_;
    row($what, $host, $want, $nth);
    $host->secrecy('plain-');
    $host->end;
    return;
}

# the server is not there

{
    my ($host, $later, $stale) = (well(), well(), well(zone => 'stale=1s'));
    $pg->stop;
    my $early = host();
    row('down at the start', $early, '503 503 503 503 200');
    row('down later', $later);
    is answers($later), $above, 'and once more';
    my $key = '/api/hooks?key=localhost/known';
    is join(' ', map { $_->{status} }
        $later->call('PUT', $key, ['X-Hook-Secret: ' . secret()]),
        $later->call('DELETE', $key), $later->call('GET', '/api/hooks'),
        $later->call('GET', '/api/metrics')), '503 503 503 200',
        'and other calls of the API';
    ok wait_for(sub { answers($stale) eq '503 503 503 503 200' }, 5),
        'nothing is believed after "stale"';
    failure('longer than `stale`', $stale, '503 503 503 503 200');
    $pg->start;
    for ($early, $later) {
        ok wait_for(sub { answers($_) =~ /^200 \d+ 403 \d+ 200$/ }, 12),
            'the server is back';
        ok wait_for(sub { $_->slurp('error.log')
            =~ /\[notice\].*PostgreSQL answers again/ }), 'the log tells';
        $_->end;
    }
    is answers($host), $usual, 'a host that asked nothing meanwhile';
    $host->end;
}

# slow

sub locked {
    my ($what, $code) = @_;
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        $pg->sql("BEGIN; $what; SELECT pg_sleep(20)", undef, 1);
        POSIX::_exit(0);
    }
    my $where = q{FROM pg_stat_activity WHERE wait_event = 'PgSleep'};
    wait_for(sub { $pg->sql("SELECT count(*) $where") }, 5);
    $code->();
    $pg->sql("SELECT pg_terminate_backend(pid, 1000) $where");
    waitpid $pid, 0;
    return;
}

{
    my $reads = well();
    locked('LOCK TABLE asana_hook.secrets', sub {
        failure('slow', $reads, $above, 0);
    });
    my $writes = well();
    locked('SELECT FROM asana_hook.zones FOR UPDATE', sub {
        failure('slow', $writes, '503 200 403 200 200', 1);
    });
}

{
    my $host = well();
    $pg->freeze;
    row('frozen', $host);
    $pg->thaw;
    ok wait_for(sub { answers($host) eq $usual }, 12), 'it goes on';
    $host->end;
}

{
    my $relay = Relay->new($pg->{port});
    my ($cut, $other) = (well(uri => uri($relay->{port})), well());
    $relay->mode('freeze');
    failure('network cut', $cut);
    is answers($other), $usual, 'another host';
    $other->end;
}

# who may come in

for (
    ['wrong password', sub { password('plain-wrong') },
        sub { password('plain-password') }],
    ['`passfile`', sub { chmod 0644, "$dir/pass" },
        sub { password('plain-password') }],
    ['not allowed', sub { hba() }, sub { hba($rule) }],
    ['certificate', sub { install('expired.pem', 'server.crt') },
        sub { install('good.pem', 'server.crt') }],
    ['certificate', sub { install('alien.pem', 'server.crt') },
        sub { install('good.pem', 'server.crt') }],
    ['schema missing', sub { $pg->sql('ALTER SCHEMA asana_hook RENAME TO x') },
        sub { $pg->sql('ALTER SCHEMA x RENAME TO asana_hook') }],
    ['schema of another',
        sub { $pg->sql('UPDATE asana_hook.schema SET version = 2') },
        sub { $pg->sql('UPDATE asana_hook.schema SET version = 1') }],
    ['rights missing',
        sub { $pg->sql('REVOKE ALL ON asana_hook.secrets FROM asana_hook') },
        sub { $pg->script }]
) {
    my ($what, $break, $mend) = @$_;
    my $host = well();
    $break->();
    reconfigure();
    if ($what =~ /^schema of/) {
        is answers($host), $usual, 'connections that are open go on';
    }
    disconnect();
    failure($what, $host);
    $mend->();
    reconfigure();
}

# what is not durable

sub setting {
    my ($line, $code) = @_;
    $pg->append('postgresql.conf', "$line\n");
    reconfigure();
    $code->();
    $pg->append('postgresql.conf', ($line =~ /^(\w+)/)[0] . " = $_\n")
        for $line =~ /fsync/ ? 'on' : q{''};
    reconfigure();
    return;
}

{
    my ($host, $waits, $warned) = (well(), well(), well());
    my $reads = '503 200 403 200 200';
    setting('fsync = off', sub {
        row('`fsync=off`', $host, $reads);
        is $host->call('DELETE', "/api/hooks?key=localhost$host->{path}")
            ->{status}, 503, 'nothing is revoked';
        is answers($host), $reads, 'nothing was';
        $host->end;
    });
    setting(q{synchronous_standby_names = 'none'}, sub {
        failure('a synchronous standby', $waits, $reads);
        $pg->sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity
            WHERE wait_event = 'SyncRep'});
        my $pid = fork // die "fork: $!\n";
        if (!$pid) {
            wait_for(sub { $pg->sql(q{SELECT count(pg_cancel_backend(pid)) FROM
                pg_stat_activity WHERE wait_event = 'SyncRep'}) }, 5);
            POSIX::_exit(0);
        }
        failure('a commit that was not', $warned, $reads);
        waitpid $pid, 0;
    });
}

# keys

{
    my $first = well(expect => qr/"encryption_key" file/);
    my $conf  = $first->conf;
    my $file  = "$dir/other";
    my ($name) = grep {/^key file missing/} @order;
    $seen{$name}++;
    for (0, 1) {
        my $text = $row{$name}{texts}[$_];
        $pg->key_file('other', 2) if $_;
        chmod 0644, $file;
        my ($code, $said) = $first->test_config($conf =~ s/$dir\/key/$file/r);
        isnt $code, 0, "$name: nginx does not start";
        like $said, $text->{pattern}, "$name: it tells" and $text->{seen}++;
    }

    chmod 0600, $file;
    my $other = well(key => $file);
    is $first->deliver($other->{path}, $other->{known}, $body)->{status}, 503,
        'key unknown: a delivery';
    is $first->handshake($other->{path}, $other->{known})->{status}, 503,
        'key unknown: a handshake';
    is $other->deliver($other->{path}, $other->{known}, $body)->{status}, 200,
        'key unknown: who has it';
    failure('key unknown', $first, $usual);

    $other->end;

    my $host = well();
    my ($path, $secret) = ('/changed', secret());
    is $host->handshake($path, $secret)->{status}, 200, 'a row';
    $pg->sql('UPDATE asana_hook.secrets SET sealed = set_byte(sealed, 20, 255 -'
        . " get_byte(sealed, 20)) WHERE key = 'localhost$path'");
    is $host->deliver($path, $secret, $body)->{status}, 503,
        'a changed row: a delivery';
    is $host->handshake($path, $secret)->{status}, 503,
        'a changed row: a handshake';
    failure('a row was changed', $host, $usual);
}

# what goes back in time

{
    my ($host, $empty) = (well(), well());
    run("pg_dump -Fc -U postgres -h 127.0.0.1 -p $pg->{port} -n asana_hook "
        . '-f dump hooks');
    my $later = secret();
    is $host->handshake('/later', $later)->{status}, 200, 'a later secret';
    is $host->deliver('/later', $later, $body)->{status}, 200, 'is known';
    run("pg_restore -1 -c -U postgres -h 127.0.0.1 -p $pg->{port} -d hooks "
        . 'dump');
    ok wait_for(sub {
        $host->deliver('/later', $later, $body)->{status} == 403
    }, 12), 'restored: it is lost';
    failure('failed over with loss', $host, $usual);

    ok wait_for(sub { answers($empty) eq $usual }, 12), 'another host';
    $pg->sql('SET client_min_messages = error; '
        . 'TRUNCATE asana_hook.zones CASCADE');
    ok wait_for(sub {
        $empty->deliver($empty->{path}, $empty->{known}, $body)->{status} == 403
    }, 5), 'no rows: nothing is known';
    failure('the zone', $empty, '200 403 403 404 200');
}

# a standby

sub standby {
    my $other = bless {%$pg, port => port(), server => undef}, 'Postgres';
    $pg->as('pg_basebackup', '-D', "$dir/pg/standby", qw(-R -c fast --no-sync
        -U postgres -h 127.0.0.1 -p), $pg->{port}) == 0
        or die "pg_basebackup: $dir/log\n";
    $other->{server} = $other->child('postgres', '-D', "$dir/pg/standby",
        '-p', $other->{port});
    wait_for(sub { $other->sql('SELECT 1', 'postgres', 1) eq '1' }, 10)
        or die "no standby: $dir/log\n";
    return $other;
}

{
    my $standby = standby();
    my @ports   = ($pg->{port}, $standby->{port});
    my $moves   = well(uri => uri(@ports));
    my $any = host(uri => uri($ports[1]) . '&target_session_attrs=any');
    failure('read-only', $any, '503 503 503 503 200', 1);
    ok wait_for(sub { $pg->sql('SELECT pg_current_wal_lsn()')
        eq $standby->sql('SELECT pg_last_wal_replay_lsn()') }, 5), 'in step';
    $pg->stop;
    row('read-only', $moves, undef, 0);
    row('failed over', $moves);
    $standby->sql('SELECT pg_promote()');
    ok wait_for(sub { answers($moves) eq $usual }, 12),
        'promoted: all is well';
    unlike $moves->slurp('error.log'), qr/does not go on/, 'nothing was lost';
    $moves->end;
    $standby->stop;
    $pg->start;
}

SKIP: {
    my ($name) = grep {/^PgBouncer/} @order;
    $seen{$name}++;
    skip 'needs PgBouncer (pgbouncer on Debian)', 6 if !$bouncer;
    my $port = port();
    write_file('users', qq("asana_hook" "plain-password"\n));
    write_file('bouncer.ini', <<"END");
[databases]
hooks = host=127.0.0.1 port=$pg->{port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $port
unix_socket_dir =
auth_type = trust
auth_file = $dir/users
server_tls_sslmode = require
pool_mode = transaction
default_pool_size = 2
server_login_retry = 0.2
END
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        open STDERR, '>>', "$dir/log";
        POSIX::setgid($pg->{user}[1]);
        POSIX::setuid($pg->{user}[0]);
        exec $bouncer, '-q', "$dir/bouncer.ini" or POSIX::_exit(127);
    }
    ok wait_for(sub {
        IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port)
    }), 'PgBouncer listens';
    my $uri = "postgresql://asana_hook\@127.0.0.1:$port/hooks?sslmode=disable";
    my ($host, @more) = map { well(uri => $uri) } 1 .. 3;
    row('PgBouncer', $host, $usual);
    unlike $host->slurp('error.log'), qr/PostgreSQL failed/, 'nothing fails';
    $pg->stop;
    is answers($host), $above, 'PgBouncer without a server';
    ok wait_for(sub {
        $host->slurp('error.log') =~ /failed: ".*server login has been failing/
    }, 12), 'is told';
    $pg->start;
    $_->end for $host, @more;
    kill 'KILL', $pid;
    waitpid $pid, 0;
}

# nothing of the table was left out, and no text of it but one that needs luck

is_deeply [grep { !$seen{$_} } @order], [], 'each row was shown';
my %luck = map { $_ => 1 } 'the database system is starting up';
is_deeply [
    grep { !$luck{$_} } map { $_->{text} }
    grep { !$_->{seen} } map { @{$row{$_}{texts}} } @order
    ],
    [], 'each text was seen';
unlike $pg->log, qr/plain-secret/, 'no secret is in the log of PostgreSQL';

$pg->end;
done_testing;
