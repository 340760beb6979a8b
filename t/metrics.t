# Tests for the metrics of asana_hook_api: they equal the traffic, to the unit.

use strict;
use warnings;

use lib 't/lib';

use JSON::PP;
use Test::More;

use Receiver qw(raw request sign version wait_for);

my $t = Receiver->new(
    workers => 2,
    zone    => 'max_secrets=2 pending=1h',
    expect  => qr/was removed or replaced/,
    server  => 'location /api { asana_hook_api hooks write=on; }
        add_header X-Pid $pid always;
        location /dry {
            asana_hook hooks;
            asana_hook_enroll $arg_p;
            asana_hook_dry_run on;
            proxy_pass http://127.0.0.1:APP;
        }',
    location => 'asana_hook_enroll $arg_p;'
);
$t->{server} =~ s/APP/$t->{app_port}/;
$t->{http} = "server { listen 127.0.0.1:$t->{app_port}; "
    . 'location / { return 200 app; } }';
my $conf = $t->conf;
$conf =~ s/(listen 127.0.0.1:$t->{port});/$1 reuseport;/;
$t->run($conf);

my ($body, $heartbeat) = ('{"events":[{}]}', '{"events":[]}');

sub secret { my ($n) = @_; return "secret-$n-" . 'x' x 40 }

sub shake {
    my ($path, $n, @lines) = @_;
    my $lines = join "\r\n", 'X-Hook-Secret: ' . secret($n), @lines;
    return raw($path, $lines, '');
}

sub delivery {
    my ($path, $n, $text) = @_;
    return raw($path, 'X-Hook-Signature: ' . sign(secret($n), $text), $text);
}

# All samples of a text: { 'name{labels}' => value }.

sub samples {
    my ($text) = @_;
    return { map { /^([^#]\S*) (\S+)$/ ? ($1 => $2) : () } split /\n/, $text };
}

sub metrics { return samples($t->call('GET', '/api/metrics')->{body}) }

# What is counted: { 'handshakes handshake' => 1, ... }, without zeros.

sub counted {
    my ($all) = @_;
    my %got;
    for my $name (keys %$all) {
        next unless $name =~
            /^asana_hook_(\w+)_total\{zone="hooks",result="(\w+)"\}$/;
        $got{"$1 $2"} = $all->{$name} if $all->{$name};
    }
    return \%got;
}

# The same as GET / has it.

sub info {
    my $info = decode_json($t->call('GET', '/api')->{body});
    my %got;
    for my $kind (qw(handshakes deliveries)) {
        for my $word (keys %{ $info->{$kind} }) {
            my $n = $info->{$kind}{$word};
            $got{"$kind $word"} = $n if $n;
        }
    }
    return \%got;
}

is_deeply counted(metrics()), {}, 'nothing yet';
my @words = map {/result="(\w+)"/} sort keys %{ metrics() };
my @must = ((qw(handshake refused malformed error verified heartbeat pending
    unsigned unknown invalid)), map {"${_}_dry_run"} qw(pending unsigned
    unknown invalid malformed error));
for my $word (@must) {
    ok scalar(grep { $_ eq $word } @words), "$word is there from the start";
}

# [kind, word, how many, status, request]

my $zeros = '0' x 64;
my $long  = '/' . 'l' x 480;
my @traffic = (
    ['handshakes handshake', 1, 200, shake('/a?p=first', 1)],
    ['handshakes handshake', 4, 200, shake('/a?p=first', 1)],
    ['handshakes handshake', 1, 200, shake('/pending?p=confirm', 3)],
    ['handshakes handshake', 1, 200, shake('/dry/a?p=first', 1)],
    ['handshakes handshake', 1, 200, shake('/dry/pending?p=confirm', 3)],
    ['handshakes refused', 3, 403, shake('/a?p=first', 2)],
    ['handshakes refused', 2, 403, shake('/b?p=off', 2)],
    ['handshakes refused', 2, 403, shake('/b?p=nonsense', 2)],
    ['handshakes refused', 1, 403, shake('/dry/b?p=off', 2)],
    ['handshakes malformed', 1, 400, raw('/a', 'X-Hook-Secret:', '')],
    ['handshakes malformed', 2, 400, raw('/a', 'X-Hook-Secret: short', '')],
    ['handshakes malformed', 1, 400, shake('/a', 1, "X-Hook-Secret: b")],
    ['handshakes malformed', 1, 400,
        shake('/a', 1, "X-Hook-Signature: $zeros")],
    ['handshakes malformed', 1, 400, shake($long, 1)],
    ['handshakes malformed', 1, 400,
        raw('/dry/a', 'X-Hook-Secret: short', '')],
    ['deliveries verified', 41, 200, delivery('/a', 1, $body)],
    ['deliveries verified', 5, 200, delivery('/dry/a', 1, $body)],
    ['deliveries heartbeat', 17, 200, delivery('/a', 1, $heartbeat)],
    ['deliveries pending', 6, 503, delivery('/pending', 3, $body)],
    ['deliveries pending', 3, 200, delivery('/pending', 3, $heartbeat)],
    ['deliveries pending_dry_run', 2, 200,
        delivery('/dry/pending', 3, $body)],
    ['deliveries pending_dry_run', 1, 200,
        delivery('/dry/pending', 3, $heartbeat)],
    ['deliveries unsigned', 11, 403, raw('/a', 'X: y', $body)],
    ['deliveries unsigned_dry_run', 7, 200, raw('/dry/a', 'X: y', $body)],
    ['deliveries unknown', 9, 403, delivery('/none', 1, $body)],
    ['deliveries unknown', 1, 403, delivery($long, 1, $body)],
    ['deliveries unknown_dry_run', 3, 200, delivery('/dry/no', 1, $body)],
    ['deliveries invalid', 13, 403, delivery('/a', 2, $body)],
    ['deliveries invalid_dry_run', 4, 200, delivery('/dry/a', 2, $body)],
    ['deliveries malformed', 2, 403, raw('/a', 'X-Hook-Signature: 1', $body)],
    ['deliveries malformed', 1, 403, raw('/a', 'X-Hook-Signature:', $body)],
    ['deliveries malformed', 1, 403, raw('/a',
        "X-Hook-Signature: $zeros\r\nX-Hook-Signature: $zeros", $body)],
    ['deliveries malformed_dry_run', 5, 200,
        raw('/dry/a', 'X-Hook-Signature: 1', $body)]
);

my %want;

sub send_all {
    my %pid;
    for my $case (@traffic) {
        my ($word, $n, $status, $request) = @$case;
        my @r = $t->many(($request) x $n);
        is scalar(grep { $_->{status} == $status } @r), $n,
            "$n of $word: $status"
            or diag $request, $r[0]{head};
        $want{$word} += $n;
        $pid{$_}++ for map { $_->{head} =~ /^X-Pid: (\d+)/m } @r;
    }
    is scalar(keys %pid), 2, 'over two workers';
    return;
}

sub compare {
    my ($name) = @_;
    my $all = metrics();
    is_deeply counted($all), \%want, "$name: metrics";
    is_deeply info(), \%want, "$name: GET /";
    return $all;
}

send_all();
my $first = compare('once');

# neither of these is counted

$t->call($_, '/a') for qw(GET HEAD OPTIONS);
$t->call('POST', '/api');
compare('UNCHECKED and the API itself');

# gauges

# the sample of docs/reference.md, whatever its numbers

{
    my ($sample) = qx(cat docs/reference.md) =~ /^```text\n(.*?)^```/ms;
    my %line = map { s/ \d+$//r => 1 } split /\n/,
        $t->call('GET', '/api/metrics')->{body};
    is_deeply [grep { !$line{ s/ \d+$//r } && /\w/ } split /\n/, $sample], [],
        'the sample in docs/reference.md';
}

my ($size, $used, $max, $stored) = map { $first->{"asana_hook_${_}_bytes"
        . '{zone="hooks"}'} } qw(zone_size zone_used store_max store_used);
is $size, 1048576, 'bytes of the zone';
ok $used > 0 && $used < $size, 'in use';
is $max, 256 * 1048576, 'bytes that the store may take';
ok $stored > 0 && $stored < $max, 'in use';
is $first->{'asana_hook_build_info{version="' . version() . '",store="lmdb"}'}, 1,
    'version and kind of store';
is_deeply [grep {/kind=|_secrets\{|commits_total|store_up/} keys %$first], [],
    'nothing is said twice';
is $first->{'asana_hook_store_writable{zone="hooks"}'}, 1, 'it can be written';
is $first->{'asana_hook_store_readable{zone="hooks"}'}, 1, 'the store is up';

# the histogram of commits

sub histogram {
    my ($all, $name) = @_;
    my $h = 'asana_hook_store_commit_seconds';
    my (%bucket, @bad);
    for my $key (keys %$all) {
        $bucket{$1} = $all->{$key} if $key =~ /^${h}_bucket\{.*le="([^"]+)"/;
    }
    my $last = 0;
    for my $le (sort { $a <=> $b } grep {/\d/} keys %bucket) {
        push @bad, $le if $bucket{$le} < $last;
        $last = $bucket{$le};
    }
    is_deeply \@bad, [], "$name: buckets are cumulative";
    cmp_ok $bucket{'+Inf'}, '>=', $last, '+Inf is the largest';
    is $all->{"${h}_count{zone=\"hooks\"}"}, $bucket{'+Inf'}, 'as the count';
    cmp_ok $all->{"${h}_sum{zone=\"hooks\"}"}, '>', 0, 'a sum';
    is decode_json($t->call('GET', '/api')->{body})->{store}{commits},
        $bucket{'+Inf'}, 'GET / says the same';
    return $bucket{'+Inf'};
}

my $commits = histogram($first, 'once');
for my $n (1 .. 5) {
    is $t->handshake("/new/$n?p=first", secret(1))->{status}, 200, 'new';
    $want{'handshakes handshake'}++;
}
is histogram(metrics(), 'five more') - $commits, 5,
    'five handshakes one after the other are five commits';

# look-ups: what the zone answers needs none

sub lookups {
    my ($name) = @_;
    my $all = metrics();
    my $info = decode_json($t->call('GET', '/api')->{body})->{store};
    my ($keys, $queries) = map { $all->{qq(asana_hook_store_${_}{zone="hooks"})} }
        qw(lookups_total lookup_seconds_count);
    is $queries, $keys, "$name: a query for each key";
    is_deeply [@$info{qw(lookups queries)}], [$keys, $queries],
        "$name: GET / says the same";
    return $keys;
}

$t->many((delivery('/a', 1, $body)));
my $lookups = lookups('before');
cmp_ok $lookups, '>', 0, 'look-ups';
$t->many((delivery('/a', 1, $body)) x 20);
$want{'deliveries verified'} += 21;
is lookups('a key in the zone') - $lookups, 0, 'the zone answers';
$t->many(map { delivery("/unknown/$_", 1, $body) } 1 .. 5);
$want{'deliveries unknown'} += 5;
is lookups('new keys') - $lookups, 5, 'each new key is looked up once';
is_deeply [grep {/conflicts|failures/} keys %{ metrics() }], [],
    'a directory is no engine';

# a reload keeps all of it

ok $t->reload, 'a reload';
compare('a reload');
is lookups('a reload') - $lookups, 5, 'look-ups as well';
cmp_ok histogram(metrics(), 'a reload'), '>=', $commits + 5, 'commits as well';

# the second time nothing is new: all the same answers

send_all();
compare('twice');

# a store that fails

rename "$t->{dir}/state", "$t->{dir}/away" or die $!;
is $t->handshake('/fails?p=first', secret(1))->{status}, 503, 'no store';
$want{'handshakes error'}++;
compare('a handshake that failed');
rename "$t->{dir}/away", "$t->{dir}/state" or die $!;

# a body that does not come

for my $n (1 .. 6) {
    my $s = $t->connection;
    my $cut = substr delivery('/a', 1, $body), 0, -2;

    # with what was sent at once, or when nginx waits for more
    if ($n % 2) {
        $cut =~ s/\r\n/\r\nExpect: 100-continue\r\n/;
        $cut =~ s/(\r\n\r\n).*/$1/s;
        request($s, $cut);
        like readline $s, qr/100/, 'nginx waits for the body';
    } else {
        request($s, $cut);
    }
    close $s;
    $want{'deliveries aborted'}++;
}
wait_for(sub { (info()->{'deliveries aborted'} || 0) == 6 }, 5);
compare('bodies that did not come');

# promtool's opinion

my $promtool = grep { -x "$_/promtool" } split /:/, $ENV{PATH};

sub promtool {
    my ($name) = @_;
SKIP: {
        skip 'no promtool (Debian: prometheus)', 1 unless $promtool;
        $t->write_file('metrics', $t->call('GET', '/api/metrics')->{body});
        my $said = qx(promtool check metrics <$t->{dir}/metrics 2>&1);
        is $? . $said, '0', "promtool is content: $name";
    }
    return;
}

promtool('plain');
my $r = $t->call('GET', '/api/metrics');
like $r->{head}, qr{^Content-Type: text/plain; version=0\.0\.4\r$}m, 'type';
unlike $r->{body}, qr/^(?!asana_hook_|# (?:HELP|TYPE) asana_hook_)/m,
    'all names begin with asana_hook_';
$t->end;

# create calls

$t = Receiver->new(
    expect   => qr/was removed or replaced/,
    location => 'asana_hook_enroll confirm;',
    server   => 'location /api { asana_hook_api hooks; }
        location = /create {
            asana_hook_gateway hooks;
            proxy_pass http://127.0.0.1:APP;
        }'
);
$t->{server} =~ s/APP/$t->{app_port}/;
$t->app->run;

is_deeply [sort grep {/gateway_requests/} keys %{ metrics() }],
    [map {qq(asana_hook_gateway_requests_total{zone="hooks",result="$_"})}
        qw(confirmed error refused revoked unmatched unreadable)],
    'a gateway: words of create calls are there from the start';

sub create {
    my ($method, $status, $answer, $n) = @_;
    $t->answer($status, '', $answer);
    for (1 .. $n) {
        is $t->call($method, '/create', [], 'x')->{status}, $status,
            "$method: $status";
    }
    return;
}

sub member { my ($n) = @_; return '{"X-Hook-Secret":"' . secret($n) . '"}' }

is $t->handshake("/a$_", secret($_))->{status}, 200, 'pending' for 1, 2;
create('POST', 201, member(1), 3);
create('POST', 201, member(9), 4);
create('POST', 201, '{}', 5);
create('POST', 200, member(2), 2);
create('POST', 403, member(2), 2);
create('GET', 201, member(2), 2);
rename "$t->{dir}/state", "$t->{dir}/away" or die $!;
create('POST', 201, member(2), 1);
rename "$t->{dir}/away", "$t->{dir}/state" or die $!;
%want = (
    'handshakes handshake'        => 2,
    'gateway_requests confirmed'  => 3,
    'gateway_requests unmatched'  => 4,
    'gateway_requests unreadable' => 5,
    'gateway_requests error'      => 1
);
is_deeply counted(metrics()), \%want, 'create calls, to the unit';
promtool('a gateway');
$t->end;

# names of zones

for my $name ('a"b', 'a\\b', "a\nb", 'z' x 230) {
    $t = Receiver->new(
        server => 'location /api { asana_hook_api "NAME" write=on; }');
    $t->write_file('keys', join '', map { $_ x 64 . "\n" } 1, 2);
    chmod 0600, "$t->{dir}/keys";
    $t->{zone} = "encryption_key=$t->{dir}/keys";
    my $quoted = $name;
    $quoted =~ s/(["\\])/\\$1/g;
    $quoted =~ s/\n/\\n/g;
    $conf = $t->conf;
    $conf =~ s/"NAME"/"$quoted"/;
    $conf =~ s/asana_hook hooks;/asana_hook "$quoted";/;
    $conf =~ s/zone=hooks:1m/"zone=$quoted:1m"/;
    $t->run($conf);
    is decode_json($t->call('GET', '/api')->{body})->{zone}, $name,
        'an odd name of a zone: ' . substr $name, 0, 9;
    my @lines = split /\n/, $t->call('GET', '/api/metrics')->{body};
    is scalar(grep { !/^#|build_info/ && !/zone="\Q$quoted\E"/ } @lines), 0,
        'in all labels';
    is scalar(grep {/^asana_hook_store_secrets\{zone=".*",key_id="[0-9a-f]{8}"} 0$/}
            @lines), 2, 'encryption keys';
    promtool('an odd name');
    $t->end;
}

done_testing;
