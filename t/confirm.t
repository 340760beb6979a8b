# Tests for asana_hook_enroll confirm: what is pending, what it is worth, and
# what it can push out.

use strict;
use warnings;

use lib 't/lib';

use IO::Select;
use JSON::PP;
use Test::More;
use Time::HiRes qw(time);

use Receiver qw(raw request response secret_id wait_for);

my %secret = map { $_ => "secret-$_-" . 'x' x 40 } 'A' .. 'H';
my %name   = map { secret_id($secret{$_}) => $_ } keys %secret;
my $api    = 'location /api { asana_hook_api hooks write=on; }';
my $t;

sub receiver {
    my (%opt) = @_;
    $opt{server} = $api . ($opt{server} || '');
    $opt{location} = 'asana_hook_enroll $arg_p;';
    return Receiver->new(%opt)->app->run;
}

sub json {
    my ($uri) = @_;
    my $r = $t->call('GET', $uri);
    return decode_json($r->{body}) if $r->{status} == 200;
    diag "GET $uri: $r->{status}, error log:\n", $t->slurp('error.log');
    return {};
}

# The secrets of a path with their states: "A:active B:pending".

sub state_of {
    my ($path) = @_;
    my $r = $t->call('GET', "/api/hooks?key=localhost$path");
    return '' if $r->{status} == 404;
    return join ' ', sort map {"$name{$_->{id}}:$_->{state}"}
        @{ decode_json($r->{body})->{secrets} };
}

sub put {
    my ($path, $s) = @_;
    return $t->call('PUT', "/api/hooks?key=localhost$path",
        ["X-Hook-Secret: $secret{$s}"])->{status};
}

sub revoke {
    my ($path, $s) = @_;
    return $t->call('DELETE', "/api/hooks?key=localhost$path"
            . ($s ? '&id=' . secret_id($secret{$s}) : ''))->{status};
}

sub shake {
    my ($path, $s, $policy) = @_;
    my $r = $t->handshake("$path?p=" . ($policy || 'confirm'), $secret{$s});
    my $echo = $r->{head} =~ /^X-Hook-Secret: \Q$secret{$s}\E\r$/m ? 1 : 0;
    is $echo, $r->{status} == 200 ? 1 : 0, 'an echo with 200 alone';
    return $r->{status};
}

sub deliver {
    my ($path, $s, $body) = @_;
    $body ||= '{"events":[{}]}';
    my $r = $t->deliver($path, $secret{$s}, $body);
    is $r->{head} =~ /^Retry-After: \d+\r$/m ? 1 : 0,
        $r->{status} == 503 ? 1 : 0, 'Retry-After with 503 alone';
    return $r->{status};
}

sub logged {
    my ($path, $word) = @_;
    my $line = qr/^POST \Q$path\E \d+ \[$word\]/m;
    ok wait_for(sub { $t->slurp('access.log') =~ $line }, 5),
        "logged as $word";
    return;
}

my $heartbeat = '{"events":[]}';

# states and events, walked completely; A is there, B is new

$t = receiver(zone => 'pending=3s inactive=3s max_secrets=3');

my %event = (
    'new'       => sub { shake($_[0], 'B') },
    'same'      => sub { shake($_[0], 'A') },
    'first new' => sub { shake($_[0], 'B', 'first') },
    'first same' => sub { shake($_[0], 'A', 'first') },
    'open new'  => sub { shake($_[0], 'B', 'open') },
    'open same' => sub { shake($_[0], 'A', 'open') },
    'off new'   => sub { shake($_[0], 'B', 'off') },
    'off same'  => sub { shake($_[0], 'A', 'off') },
    'PUT same'  => sub { put($_[0], 'A') },
    'PUT new'   => sub { put($_[0], 'B') },
    'DELETE id' => sub { revoke($_[0], 'A') },
    'DELETE other' => sub { revoke($_[0], 'B') },
    'DELETE'    => sub { revoke($_[0]) },
    'events'    => sub { deliver($_[0], 'A') },
    'heartbeat' => sub { deliver($_[0], 'A', $heartbeat) }
);

# [event, then for each state: status, secrets afterwards]

my @states = qw(none pending expired active inactive);
my ($pending, $active, $inactive) = qw(A:pending A:active A:inactive);
my @table = (
    ['new', 200, 'B:pending', 200, "$pending B:pending", 200, 'B:pending',
        200, "$active B:pending", 200, "$inactive B:pending"],
    ['same', 200, $pending, 200, $pending, 200, $pending,
        200, $active, 200, $inactive],
    ['first new', 200, 'B:active', 200, "$pending B:active",
        200, 'B:active', 403, $active, 200, 'B:active'],
    ['first same', 200, $active, 200, $active, 200, $active,
        200, $active, 200, $inactive],
    ['open new', 200, 'B:active', 200, "$pending B:active",
        200, 'B:active', 200, "$active B:active",
        200, "$inactive B:active"],
    ['open same', 200, $active, 200, $active, 200, $active,
        200, $active, 200, $inactive],
    ['off new', 403, '', 403, $pending, 403, '', 403, $active,
        403, $inactive],
    ['off same', 403, '', 200, $pending, 403, '', 200, $active,
        200, $inactive],
    ['PUT same', 201, $active, 200, $active, 201, $active,
        200, $active, 200, $active],
    ['PUT new', 201, 'B:active', 201, "$pending B:active",
        201, 'B:active', 201, "$active B:active",
        201, "$inactive B:active"],
    ['DELETE id', 404, '', 204, '', 404, '', 204, '', 204, ''],
    ['DELETE other', 404, '', 404, $pending, 404, '', 404, $active,
        404, $inactive],
    ['DELETE', 404, '', 204, '', 404, '', 204, '', 204, ''],
    ['events', 403, '', 503, $pending, 403, '', 200, $active, 200, $active],
    ['heartbeat', 403, '', 200, $pending, 403, '', 200, $active,
        200, $active]
);

sub path {
    my ($event, $state) = @_;
    my $path = "/$event/$state";
    $path =~ s/ /-/g;
    return $path;
}

sub enter {
    my ($state, $path) = @_;
    shake($path, 'A') if $state eq 'pending' || $state eq 'expired';
    put($path, 'A') if $state eq 'active' || $state eq 'inactive';
    return;
}

# what takes time is done before: the last of them is made last

for my $state (qw(expired inactive)) {
    enter($state, path($_->[0], $state)) for @table;
    my $last = path($table[-1][0], $state);
    my $want = $state eq 'expired' ? '' : $inactive;
    ok wait_for(sub { state_of($last) eq $want }), "all are $state";
}
$t->seen;

my %word = (none => 'UNKNOWN', pending => 'PENDING', expired => 'UNKNOWN');
for my $row (@table) {
    my ($event, @cells) = @$row;
    for my $state (@states) {
        my ($status, $after) = splice @cells, 0, 2;
        my $path = path($event, $state);
        enter($state, $path) if $state eq 'pending' || $state eq 'active';
        is $event{$event}->($path), $status, "$state, $event: $status";
        if ($event eq 'events' || $event eq 'heartbeat') {
            my $word = $word{$state}
                || ($event eq 'events' ? 'VERIFIED' : 'HEARTBEAT');
            logged($path, $word);
            is scalar(my @seen = $t->seen), $word{$state} ? 0 : 1,
                'what the application sees';
        }

        # a delivery's time may take the way through the store
        my $now;
        wait_for(sub { ($now = state_of($path)) eq $after }, 1);
        is $now, $after, "then it is \"$after\"";
    }
}

# time

enter('pending', '/time/pending');
enter('active', '/time/active');
ok wait_for(sub { state_of('/time/active') eq $inactive }),
    'active, time: inactive';
ok wait_for(sub { state_of('/time/pending') eq '' }), 'pending, time: none';
is deliver('/time/pending', 'A', $heartbeat), 403, 'it verifies no more';
logged('/time/pending', 'UNKNOWN');

# what was confirmed does not expire

is shake('/kept', 'A'), 200, 'pending';
is put('/kept', 'A'), 200, 'confirmed';
is shake('/later', 'A'), 200, 'another one waits';
ok wait_for(sub { state_of('/later') eq '' }), 'and expires';
is deliver('/kept', 'A'), 200, 'the confirmed one verifies';

# a handshake that comes again does not prolong the wait

is shake('/again', 'A'), 200, 'pending';
my $created = json('/api/hooks?key=localhost/again')->{secrets}[0]{created};
wait_for(sub { shake('/again', 'A'); state_of('/again') eq '' }, 2);
is json('/api/hooks?key=localhost/again')->{secrets}[0]{created}, $created,
    'the same handshake again does not prolong it';

$t->end;

# a restart, and what nobody could write back

$t = receiver(zone => 'pending=1h', expect => qr/signal 9/);
shake('/restart', 'A');
$t->kill9;
$t->start;
is state_of('/restart'), $pending, 'a restart keeps what is pending';
is put('/restart', 'A'), 200, 'to be confirmed';
is deliver('/restart', 'A'), 200, 'verifies';
$t->secrecy(values %secret);
$t->end;

# one that has expired is none, whether or not it was cleared away

$t = receiver(zone => 'pending=1s');
shake("/$_", 'A') for 1 .. 3;
ok wait_for(sub { state_of('/3') eq '' }), 'expired';
is_deeply json('/api/hooks'), { hooks => [], next => undef },
    'the listing has none of them';
is revoke('/1'), 404, 'DELETE of all: 404';
is revoke('/2', 'A'), 404, 'DELETE of one: 404';
is put('/3', 'A'), 201, 'PUT: 201';
is state_of('/3'), 'A:active', 'active';
$t->end;

# of several pending ones each is confirmed by itself

$t = receiver(zone => 'max_secrets=4 pending=1h');
shake('/a', $_) for 'A' .. 'D';
is state_of('/a'), 'A:pending B:pending C:pending D:pending', 'four';
is put('/a', 'B'), 200, 'one is confirmed';
is state_of('/a'), 'A:pending B:active C:pending D:pending', 'one';
is deliver('/a', 'B'), 200, 'it verifies';
is deliver('/a', $_), 503, "$_ does not" for qw(A C D);
is put('/a', 'D'), 200, 'another';
is deliver('/a', 'D'), 200, 'verifies';
is deliver('/a', 'C'), 503, 'the third waits';

# pending ones push out their like, the oldest first, never a confirmed one

shake('/a', $_) for 'E' .. 'H', 'E' .. 'H';
my @after = split / /, state_of('/a');
is join(' ', grep {/active/} @after), 'B:active D:active',
    'a crowd of handshakes: the confirmed ones stay';
is scalar(@after), 4, 'with as many pending ones as there is room for';
is deliver('/a', $_), 200, "$_ verifies" for qw(B D);

# max_secrets are active: refused, and nothing goes

revoke('/a');
put('/a', $_) for 'A' .. 'D';
is shake('/a', 'E'), 403, 'as many active ones as max_secrets: refused';
logged('/a', 'REFUSED');
is put('/a', 'E'), 409, 'PUT: 409';
is state_of('/a'), 'A:active B:active C:active D:active', 'all stay';
is put('/a', 'B'), 200, 'PUT of one of them is fine';
is revoke('/a', 'A'), 204, 'one is revoked';
is shake('/a', 'E'), 200, 'there is room';
is put('/a', 'F'), 201, 'for whoever is confirmed first';
is put('/a', 'E'), 409, 'the other one comes too late';
is deliver('/a', 'E'), 503, 'and goes on waiting';
$t->end;

# what is held is acknowledged though the policy would refuse it now

$t = receiver(zone => 'max_secrets=1 pending=1h');
shake('/a', 'A');
is put('/a', 'B'), 201, 'another one is active';
is shake('/a', 'A', 'open'), 200, 'the pending one comes again: acknowledged';
is state_of('/a'), 'A:pending B:active', 'and stays as it is';
is shake('/a', 'C', 'open'), 403, 'a third one is refused';
$t->end;

# PUT: one that is inactive makes place, the longest so

$t = receiver(zone => 'max_secrets=2 inactive=2s');
is put('/a', 'A'), 201, 'one';
ok wait_for(sub { state_of('/a') eq 'A:inactive' }), 'inactive';
is put('/a', 'B'), 201, 'another one';
ok wait_for(sub { state_of('/a') eq 'A:inactive B:inactive' }), 'inactive';
is put('/a', 'C'), 201, 'a third one';
is state_of('/a'), 'B:inactive C:active', 'takes the place of the first';
is put('/a', 'D'), 201, 'a fourth one';
is state_of('/a'), 'C:active D:active', 'that of the second';
is put('/a', 'E'), 409, 'a fifth one finds no place';
$t->end;

# at most 1 for 16k of the store, at least 16: other keys' pending ones go

for my $case (['1m', 64], ['2m', 128]) {
    my ($size, $max) = @$case;
    $t = receiver(zone => "max_size=$size pending=1h");
    put('/active', 'A');
    shake('/proven', 'A', 'first');
    is deliver('/proven', 'A'), 200, 'proven';
    my @requests = map {
        "POST /n/$_?p=confirm HTTP/1.1\r\nHost: localhost\r\n"
            . "X-Hook-Secret: $secret{B}\r\n\r\n"
    } 1 .. 3 * $max;
    is scalar(grep { $_->{status} == 200 } $t->many(@requests)), 3 * $max,
        'many more than fit';
    my $store = json('/api')->{store};
    is $store->{pending}, $max, "max_size=$size: $max stay";
    is $store->{secrets}, $max + 2, 'beside the others';
    is deliver($_, 'A'), 200, "$_ verifies" for qw(/active /proven);
    $t->end;
}

# a full store: pending ones make room, active ones never do

$t = receiver(zone => 'max_size=1m pending=1h max_secrets=3');
my $pad = 'p' x 200;
my @wait = map {
    "POST /w/$_?p=confirm HTTP/1.1\r\nHost: localhost\r\n"
        . "X-Hook-Secret: $secret{B}$pad\r\n\r\n"
} 1 .. 64;
is scalar(grep { $_->{status} == 200 } $t->many(@wait)), 64, '64 pending';
my $held = 0;
for my $i (1 .. 5000) {
    my $r = $t->call('PUT', "/api/hooks?key=localhost/full/$i",
        ["X-Hook-Secret: $secret{A}$pad$i"]);
    last if $r->{status} != 201;
    $held = $i;
}
cmp_ok $held, '>', 200, 'a store that was filled by PUT';
is json('/api')->{store}{pending}, 0, 'pending ones went for it';
shake("/x/$_", 'B') for 1 .. 50;
is json('/api')->{store}{secrets} - json('/api')->{store}{pending}, $held,
    'handshakes push out none of the others';
my @all = map {
    my $s = "$secret{A}$pad$_";
    raw("/full/$_", 'X-Hook-Signature: '
            . Receiver::sign($s, $heartbeat), $heartbeat)
} 1 .. $held;
my @not = grep { $_->{status} != 200 } $t->many(@all);
is "@{[map { $_->{status} } @not]}", '', 'and all of them verify';
like $t->slurp('error.log'), qr/"max_size"/, 'the log says what to do';
$t->end;

# the flood

my $n = $ENV{ASANA_HOOK_LONG} ? 100_000 : 10_000;
my $max_size = 8 * 1048576;
$t = receiver(zone => 'max_size=8m pending=1h');

my @put = map {
    "PUT /api/hooks?key=localhost/active/$_ HTTP/1.1\r\nHost: localhost\r\n"
        . "X-Hook-Secret: $secret{A}$_\r\n\r\n"
} 1 .. 1000;
is scalar(grep { $_->{status} == 201 } $t->many(@put)), 1000,
    '1,000 active secrets';

my @s;
my $each = int($n / 200);
for my $c (1 .. 200) {
    push @s, $t->connection;
    my $text = join '', map {
        "POST /flood/$c/$_?p=confirm HTTP/1.1\r\nHost: localhost\r\n"
            . "X-Hook-Secret: $secret{B}\r\n\r\n"
    } 1 .. $each;
    request($s[-1], $text);
}
my ($echoes, $start) = (0, time);
my %text  = map { $_ => '' } @s;
my $select = IO::Select->new(@s);
while ($echoes < $n && time - $start < 300) {
    my @ready = $select->can_read(30) or last;
    for my $s (@ready) {
        my $got = sysread $s, $text{$s}, 65536, length $text{$s};
        $select->remove($s) unless $got;
        $echoes++ while $text{$s} =~ s/^.*?X-Hook-Secret: .*?\r\n\r\n//s;
    }
}
is $echoes, $n, "$n handshakes are answered";
note sprintf '%d handshakes in %.1f s', $n, time - $start;
close $_ for @s;

my $info = json('/api');
is $info->{store}{pending}, $max_size / 16384, 'of which few stay';
is $info->{store}{secrets}, 1000 + $max_size / 16384, 'with the others';
is $info->{size}, 1048576, 'the zone is as it was';
cmp_ok -s "$t->{dir}/state/data.mdb", '<=', $max_size, 'the file is bounded';
cmp_ok $info->{store}{size}, '<=', $max_size, 'as the store knows';

my @deliveries = map {
    raw("/active/$_", 'X-Hook-Signature: '
            . Receiver::sign("$secret{A}$_", $heartbeat), $heartbeat)
} 1 .. 1000;
is scalar(grep { $_->{status} == 200 } $t->many(@deliveries)), 1000,
    'all active secrets verify';
unlike $t->slurp('error.log'), qr/\[crit\]|\[warn\]/, 'no complaint';
$t->end;

done_testing;
