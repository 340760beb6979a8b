# Tests for hosts that share their secrets in PostgreSQL: three nginx of two
# workers each, and one server.

use strict;
use warnings;

use lib 't/lib';

use JSON::PP qw(decode_json);
use Test::More;
use Time::HiRes qw(sleep time);

use Postgres;
use Receiver qw(raw request response sign wait_for);
use Upstream;

Postgres->usable;

plan skip_all => 'make found no libpq'
    if !$ENV{ASANA_HOOK_STATIC}
    && !-f 'build/ngx_http_asana_hook_postgres_module.so';

my $pg    = Postgres->new;
my $body  = '{"events":[{"action":"changed"}]}';
my $fresh = 0;
sub secret { return sprintf 'plain-secret-%020d', ++$fresh }

my @hosts = map {
    my $t = Receiver->new(
        fleet    => $pg->uri,
        zone     => "encryption_key=$pg->{dir}/key poll=300ms",
        workers  => 2,
        location => 'asana_hook_enroll $enroll;',
        http     => 'map $arg_p $enroll { default first; confirm confirm; '
            . 'gateway gateway; }',
        server => 'location /api { asana_hook_api hooks write=on; }'
    );
    $t->{server} .= " location = /create { asana_hook_gateway hooks; "
        . "proxy_pass http://127.0.0.1:$t->{app_port}; }"
        . " location /delete { asana_hook_gateway hooks; "
        . "proxy_pass http://127.0.0.1:$t->{app_port}; }";
    $t->app->run;
} 1 .. 3;
my ($one, $two, $three) = @hosts;

sub status { return join ' ', map { $_->{status} } @_ }

sub lookups {
    my ($t) = @_;
    my ($n) = $t->call('GET', '/api/')->{body} =~ /"lookups":(\d+)/;
    return $n;
}

# Waits until this host has heard of all changes up to now.

sub heard {
    my ($t) = @_;
    my $start = time;
    ok wait_for(sub {
        my ($age) = $t->call('GET', '/api/metrics')->{body}
            =~ /^asana_hook_store_contact_seconds\S* (\S+)/m;
        defined $age && $age < time - $start;
    }), 'the journal is read';
    return;
}

# the first secret of a zone that the hosts have asked for in vain before: what
# they read then is kept, though they hear of the change later

{
    my $secret = secret();
    heard($two);
    is status($one->handshake('/very/first', $secret)), 200, 'the first one';
    is status($two->deliver('/very/first', $secret, $body)), 200, 'verifies';
    heard($two);
    my $before = lookups($two);
    is status($two->deliver('/very/first', $secret, $body)), 200, 'once more';
    is lookups($two), $before, 'without a look-up';
}

# a secret that one host took verifies on the others at the first try

my $lost = 0;
for my $n (1 .. 100) {
    my $secret = secret();
    my ($from, $to) = @hosts[$n % 3, ($n + 1) % 3];
    $lost++ if $from->handshake("/first/$n", $secret)->{status} != 200;
    $lost++ if $to->deliver("/first/$n", $secret, $body)->{status} != 200;
}
is $lost, 0, '100 secrets, each taken by one host, verify on another';
is status($two->deliver('/first/1', secret(), $body)), 403, 'forged';
is status($two->deliver('/none', secret(), $body)), 403, 'an unknown key';
is status($three->handshake('/first/1', secret())), 403,
    'a second secret is refused everywhere';

# two first handshakes for each key on different hosts: one is echoed

{
    my (%won, $both);
    for my $n (1 .. 50) {
        my @secrets = (secret(), secret());
        my @s = map {
            request($hosts[($n + $_) % 3]->connection,
                raw("/race/$n", "X-Hook-Secret: $secrets[$_]", ''))
        } 0, 1;
        my @r = map { response($_)->{status} } @s;
        $won{ join ' ', sort @r }++;
        my ($winner) = grep { $r[$_] == 200 } 0, 1;
        $both++ if grep {
            $_->deliver("/race/$n", $secrets[$winner], $body)->{status} != 200
                || $_->deliver("/race/$n", $secrets[1 - $winner], $body)
                ->{status} != 403
        } @hosts;
    }
    is_deeply \%won, { '200 403' => 50 }, 'exactly one of two is echoed';
    is $both, undef, 'and verifies on all hosts, the other on none';
}

# a revocation: on this host before its 204, on others within poll

my @slow;
for my $n (1 .. 20) {
    my $secret = secret();
    $one->handshake("/gone/$n", $secret);
    is status(map { $_->deliver("/gone/$n", $secret, $body) } @hosts),
        '200 200 200', "revocation $n: it verifies everywhere"
        if $n == 1;
    $_->deliver("/gone/$n", $secret, $body) for @hosts;
    is $one->call('DELETE', "/api/hooks?key=localhost/gone/$n")->{status},
        204, 'revoked';
    is status($one->deliver("/gone/$n", $secret, $body)), 403, 'here at once';
    my $start = time;
    wait_for(sub {
        !grep { $_->deliver("/gone/$n", $secret, $body)->{status} == 200 }
            $two, $three;
    }, 3);
    push @slow, time - $start;
}
@slow = sort { $a <=> $b } @slow;
cmp_ok $slow[-1], '<', 0.3 + 0.5, 'the others within poll'
    or diag "@slow";

# times of deliveries, which hosts write down meanwhile, make nobody forget

{
    my @uris = map {"/times/$_"} 1 .. 40;
    $one->handshake($_, 's' x 40) for @uris;
    heard($two);
    my @header = map { 'X-Hook-Signature: ' . sign($_ x 40, $body) } 's', 'x';
    my @s = map {
        sleep 0.01;
        my $uri = $_;
        map { request($two->connection, raw($uri, $_, $body)) } @header;
    } @uris;
    is status(map { response($_) } @s), join(' ', (200, 403) x 40),
        'forty new keys, and as many forgeries';
    ok wait_for(sub {
        $pg->sql(q(SELECT count(*) FROM asana_hook.secrets
            WHERE verified>0 AND key LIKE '%/times/%')) == 40;
    }), 'their times are written';
    heard($two);
    my $before = lookups($two);
    is status(map { $two->deliver($_, 's' x 40, $body) } @uris),
        join(' ', (200) x 40), 'later they verify';
    is lookups($two), $before, 'and none is looked up again';
}

# a pending secret: the create call goes through one host, the handshake to
# another, and a third has the delivery

{
    my $secret = secret();
    is status($two->handshake('/made?p=confirm', $secret)), 200, 'pending';
    is status($three->deliver('/made?p=confirm', $secret, $body)), 503,
        'its events wait';
    $one->answer(201, '', qq({"data":{"gid":"12"},"X-Hook-Secret":"$secret"}));
    is $one->call('POST', '/create', [], 'x')->{status}, 201, 'a create call';
    $one->answer(200, '', 'app');
    ok wait_for(sub { $one->slurp('access.log') =~ /\/create 201 \[CONFIRMED/ }),
        'confirms it';
    is status(map { $_->deliver('/made?p=confirm', $secret, $body) } @hosts),
        '200 200 200', 'on all hosts';
}

# its webhook is deleted through one host: there at once, elsewhere within poll

for my $n (1 .. 20) {
    my ($made, $gone) = @hosts[$n % 3, ($n + 1) % 3];
    my $secret = secret();
    my @r = $made->handshake('/again?p=first', $secret);
    $made->answer(201, '',
        qq({"data":{"gid":"7$n"},"X-Hook-Secret":"$secret"}));
    push @r, $made->call('POST', '/create', [], 'x');
    push @r, map { $_->deliver('/again', $secret, $body) } @hosts;
    $gone->answer(200, '', '{"data":{}}');
    push @r, $gone->call('DELETE', "/delete/7$n", []);
    $_->answer(200, '', 'app') for $made, $gone;
    push @r, $gone->deliver('/again', $secret, $body);
    is status(@r), '200 201 200 200 200 200 403',
        "create and delete $n on one URL, through two hosts";
}

# the policy "gateway": the create call is in flight through another host

{
    my $up     = Upstream->new($one);
    my $secret = secret();
    is status($two->handshake('/door?p=gateway', secret())), 403,
        'no create call is in flight';
    (my $conf = $one->conf)
        =~ s{(location = /create \{ asana_hook_gateway hooks; )[^\}]*}
            {$1proxy_pass http://127.0.0.1:$up->{port}; };
    ok $one->reload($conf), 'a gateway whose answer waits';
    $up->plan('door', [gate => 'door'], [send => Upstream::created($secret)],
        'close');
    my $s = $up->call('/create', 'door');
    ok wait_for(sub {
        $two->handshake('/door?p=gateway', $secret)->{status} == 200
    }, 5), 'one is in flight through another host';
    is status($three->deliver('/door', $secret, $body)), 503, 'pending';
    $up->open('door');
    is response($s)->{status}, 201, 'its answer comes';
    is status(map { $_->deliver('/door', $secret, $body) } @hosts),
        '200 200 200', 'the secret verifies on all hosts';
    ok wait_for(sub {
        $three->handshake('/door2?p=gateway', secret())->{status} == 403
    }, 5), 'and the door is shut';
    ok $one->reload($one->conf), 'back';
}

# the API

my $secret = secret();
is $two->call('PUT', '/api/hooks?key=localhost/put', ["X-Hook-Secret: $secret"])
    ->{status}, 201, 'PUT';
is status(map { $_->deliver('/put', $secret, $body) } @hosts), '200 200 200',
    'verifies everywhere';
my $r = $three->call('GET', '/api/hooks?key=localhost/put');
is $r->{status}, 200, 'GET of a key on another host';
like $r->{body}, qr/"state":"active"/, 'active';
unlike $r->{body}, qr/plain-secret/, 'without the secret';
my (@keys, $after);
do {
    my $page = decode_json($three->call('GET', '/api/hooks?limit=7'
            . (defined $after ? "&after=$after" : ''))->{body});
    push @keys, map { $_->{key} } @{ $page->{hooks} };
    $after = $page->{next};
} while (defined $after);
is scalar @keys, 100 + 50 + 40 + 4, 'a listing has all keys';
is "@keys", join(' ', sort @keys), 'in order';
like $one->call('GET', '/api/metrics')->{body},
    qr/build_info\{version="[^"]+",store="postgresql"\} 1/, 'its kind';

my ($contact) = $one->call('GET', '/api/metrics')->{body}
    =~ /^asana_hook_store_contact_seconds\{zone="hooks"\} ([\d.]+)$/m;
ok defined $contact && $contact < 5, 'the last contact' or diag $contact;

# what the engine does: keys are many, queries few; and a lock that is held

sub engine {
    my ($host) = @_;
    my @names = qw(lookups_total lookup_seconds_count conflicts_total
        failures_total);
    my %got;

    # anything may happen between two calls

    ok wait_for(sub {
        my $text = $host->call('GET', '/api/metrics')->{body};
        %got = map {
            $_ => $text =~ /^asana_hook_store_$_\{zone="hooks"\} (\d+)$/m
        } @names;
        my $info = decode_json($host->call('GET', '/api')->{body})->{store};
        return "@$info{qw(lookups queries conflicts failures)}"
            eq "@got{@names}";
    }), 'GET / says the same';
    return \%got;
}

{
    my $before = engine($one);
    my @r = $one->many(map { raw("/flood/$_",
            'X-Hook-Signature: ' . sign(secret(), $body), $body) } 1 .. 320);
    is scalar(grep { $_->{status} == 403 } @r), 320, 'a flood of forgeries';
    my $after = engine($one);
    is $after->{lookups_total} - $before->{lookups_total}, 320,
        'each of them is one look-up';
    my $queries = $after->{lookup_seconds_count}
        - $before->{lookup_seconds_count};
    cmp_ok $queries, '>', 0, 'that queries answer';
    cmp_ok $queries, '<', 64, "together: $queries of them";
    is $after->{$_}, $before->{$_}, "no $_" for qw(conflicts_total
        failures_total);

    my $pid = fork;
    if (!$pid) {
        $pg->sql(q{BEGIN; SELECT FROM asana_hook.zones FOR UPDATE;
            SELECT pg_sleep(3)}, undef, 1);
        POSIX::_exit(0);
    }
    ok wait_for(sub { $pg->sql(q{SELECT count(*) FROM pg_stat_activity
        WHERE query LIKE '%pg_sleep(3)%' AND pid <> pg_backend_pid()
        AND wait_event = 'PgSleep'}) }), 'another host holds the lock';
    is status($one->handshake('/locked', secret())), 503, 'a handshake fails';
    $after = engine($one);
    is $after->{conflicts_total} - $before->{conflicts_total}, 1,
        'it is a conflict';
    is $after->{failures_total}, $before->{failures_total}, 'and no failure';
    like $one->slurp('error.log'), qr/canceling statement due to lock timeout/,
        'the log tells';
    my $text;
    wait_for(sub {
        $text = $one->call('GET', '/api/metrics')->{body};
        return $text =~ /store_secrets/;
    });
    is_deeply [sort $text =~ /^# TYPE asana_hook_(store_\w+)/mg],
        [map {"store_$_"} qw(commit_seconds conflicts_total contact_seconds
            failures_total lookup_seconds lookups_total readable secrets
            stale_seconds used_bytes writable)], 'the metrics of an engine';
SKIP: {
        skip 'no promtool (Debian: prometheus)', 1
            if !grep { -x "$_/promtool" } split /:/, $ENV{PATH};
        $one->write_file('metrics', $text);
        my $said = qx(promtool check metrics <$one->{dir}/metrics 2>&1);
        is $? . $said, '0', 'promtool is content';
    }
    waitpid $pid, 0;
    ok wait_for(sub { $one->handshake('/locked', secret())->{status} == 200 },
        12), 'it goes on';
}

# the server is down: what is known verifies, the rest is not known

my $known = secret();
$one->handshake('/known', $known);

# the journal names it, and each host reads that once

heard($_) for @hosts;
is status(map { $_->deliver('/known', $known, $body) } @hosts), '200 200 200',
    'a secret in all zones';
$pg->stop;
is status(map { $_->deliver('/known', $known, $body) } @hosts), '200 200 200',
    'without the server: it verifies';
for my $host (@hosts) {
    my $r = $host->deliver('/known', secret(), $body);
    is $r->{status}, 503, 'another signature: 503, never 403';
    like $r->{head}, qr/^Retry-After: \d+\r$/m, 'to be sent again';
    is status($host->deliver('/unknown', secret(), $body)), 503,
        'an unknown key';
    is status($host->handshake('/new', secret())), 503, 'a handshake';
    is status(map { $host->deliver('/known', $_ % 2 ? $known : secret(), $body) }
        1 .. 8), join(' ', (200, 503) x 4), 'a look-up that fails forgets nothing';
}
is status(map { $_->deliver('/known', $known, $body) } @hosts), '200 200 200',
    'what is known verifies after a forgery as well';
like $one->slurp('error.log'), qr/\[crit\].*zone "hooks"/, 'the log says why';
cmp_ok engine($one)->{failures_total}, '>', 0, 'failures are counted';
ok wait_for(sub {
    my $text = $one->call('GET', '/api/metrics')->{body};
    return 2 == grep { $text =~ /store_$_\{zone="hooks"\} 0$/m }
        qw(readable writable);
}, 8), 'it is not readable, nor writable';
$pg->start;
ok wait_for(sub { $_->handshake('/new', $known)->{status} == 200 }, 20),
    'back: handshakes' for $one;
ok wait_for(sub {
    my $host = $_;
    $host->deliver('/known', secret(), $body)->{status} == 403
}, 20), 'and verdicts' for @hosts;

# frozen: nothing waits but what must

$pg->freeze;
my @times;
for (1 .. 40) {
    my $start = time;
    $one->call('GET', '/any');
    $one->deliver('/known', $known, $body);
    push @times, time - $start;
}
@times = sort { $a <=> $b } @times;
cmp_ok $times[38], '<', 0.2, 'frozen: others go on';
is status($one->handshake('/frozen', secret())), 503, 'a handshake: 503';
ok wait_for(sub {
    $one->call('GET', '/api/')->{body} =~ /"readable":false,/
        && $one->call('GET', '/api/metrics')->{body}
            =~ /^asana_hook_store_readable\{zone="hooks"\} 0$/m
}, 10), 'the API and the metrics tell that it cannot be read';
$pg->thaw;
ok wait_for(sub { $one->handshake('/thaw', $known)->{status} == 200 }, 20),
    'and goes on';

# a reload, and an end

for my $host (@hosts) {
    ok $host->reload, 'a reload';
    is status($host->deliver('/known', $known, $body)), 200, 'verifies after it';
}

# nothing of it is readable anywhere

unlike $pg->log, qr/plain-secret/, 'no secret is in the log of PostgreSQL';
for my $host (@hosts) {
    $host->secrecy('plain-secret');
    $host->end;
}
$pg->end;

done_testing;
