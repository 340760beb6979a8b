# Tests for a store that is full.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(raw sign wait_for);
use Stored qw(records);

my $secret = 'a-secret-of-printable-text-0123456789';
my $empty  = '{"events": []}';
my $n      = 0;
my ($t, $state);

sub secret_of { return $secret . Receiver::secret_id($_[0]) }

sub enroll_many {
    my ($receiver, @keys) = @_;
    my @r = $receiver->many(
        map { raw($_, "X-Hook-Secret: " . secret_of($_), '') } @keys);
    return map { $_->{status} } @r;
}

sub verify_many {
    my ($receiver, @keys) = @_;
    my @r = $receiver->many(map {
        raw($_, 'X-Hook-Signature: ' . sign(secret_of($_), $empty), $empty)
    } @keys);
    return map { $_->{status} } @r;
}

# fresh secrets stay, and the way out is a larger map

$t = Receiver->new(
    zone     => 'max_size=1m',
    location => 'asana_hook_heartbeat answer;'
)->app->run;
$state = "$t->{dir}/state";

is $t->handshake('/known', "$secret/known")->{status}, 200, 'a small store';
is $t->deliver('/known', "$secret/known", 'x')->{status}, 200, 'verifies';

my (@taken, %other);
my $full = wait_for(sub {
    my @keys   = map {'/' . 'k' x 400 . $n++} 1 .. 64;
    my @status = enroll_many($t, @keys);
    push @taken, map { $keys[$_] } grep { $status[$_] == 200 } 0 .. $#keys;
    $other{$_}++ for grep { $_ != 200 } @status;
    return %other;
}, 30);
ok $full, 'gets full of fresh secrets';
is join(' ', keys %other), 503, 'and takes no other then';
cmp_ok @taken, '>=', 300, 'it took some';
like $t->slurp('error.log'),
    qr/\[crit\].*store "\Q$state\E" takes no more: MDB_MAP_FULL.*; raise "max/,
    'the log names the store and the way out';
my $r = $t->handshake('/late', "$secret/late");
is $r->{status}, 503, 'a handshake';
unlike $r->{head}, qr/^X-Hook-Secret:/mi, 'gets no echo';
is $t->deliver('/known', "$secret/known", 'x')->{status}, 200,
    'deliveries verify';
is scalar(grep { $_ == 200 } verify_many($t, @taken)), scalar @taken,
    'all that it took verify';
unlike $t->slurp('error.log'), qr/were dropped/, 'none is dropped';
(my $conf = $t->conf) =~ s/max_size=1m/max_size=2m/;
ok $t->reload($conf), 'a larger "max_size"';
ok wait_for(sub {
    $t->handshake('/late', "$secret/late")->{status} == 200
}), 'lets the handshake in';
is $t->deliver('/late', "$secret/late", 'x')->{status}, 200, 'verifies';
is $t->deliver('/known', "$secret/known", 'x')->{status}, 200,
    'the first secret as well';
$t->end;

# the same with old secrets: those that never verified make room

$t = Receiver->new(
    zone     => 'max_size=1m inactive=2s',
    location => 'asana_hook_heartbeat answer;'
)->app->run;
$state = "$t->{dir}/state";

my @proven = map {"/proven/$_"} 1 .. 20;
is scalar(grep { $_ == 200 } enroll_many($t, @proven)), 20, 'some secrets';
is scalar(grep { $_ == 200 } verify_many($t, @proven)), 20, 'verify';

my ($first, $last, %answers) = ('', '');
my $dropped = 0;
wait_for(sub {
    my @keys = map {'/' . 'k' x 400 . $n++} 1 .. 64;
    my @status = enroll_many($t, @keys);
    $answers{$_}++ for @status;
    $first ||= $keys[0];
    $last = $keys[$_] for grep { $status[$_] == 200 } 0 .. $#keys;
    $dropped = 0;
    $dropped += $_
        for $t->slurp('error.log')
        =~ /\[warn\].*store "\Q$state\E" is full, (\d+) secrets that verify no/g;
    return $dropped >= 1000;
}, 60);
cmp_ok $dropped, '>=', 1000, 'others that never verified are dropped';
is join(' ', grep { !/^(200|503)$/ } keys %answers), '', 'room is made';
is scalar(grep { $_ == 200 } verify_many($t, @proven)), 20,
    'those that verified are not';
is join(' ', verify_many($t, $first, $last)), '403 200', 'the oldest go first';
$t->stop;
$t->start;
is scalar(grep { $_ == 200 } verify_many($t, @proven)), 20,
    'after a restart as well';
$t->end;

# readers of a full store: one that was killed holds nothing, one that lives
# leaves room for all that makes it no larger

sub proven {
    my ($key) = @_;
    my $secrets = records($state)->{"localhost$key"} or return;
    return $secrets->[0]{verified};
}

sub copy {
    my $pid = open my $pipe, '-|', 'mdb_copy', $state or die $!;
    sysread $pipe, my $buf, 1 or die $!;
    return ($pid, $pipe);
}

$t = Receiver->new(
    zone     => 'max_size=1m',
    location => 'asana_hook_heartbeat answer;',
    server   => 'location /api { asana_hook_api hooks write=on; }
        location /confirm {
            asana_hook hooks; asana_hook_enroll confirm;
            proxy_pass http://127.0.0.1:APP;
        }
        location = /create {
            asana_hook_gateway hooks; proxy_pass http://127.0.0.1:APP;
        }'
);
$t->{server} =~ s/APP/$t->{app_port}/g;
$t->app->run;
$state = "$t->{dir}/state";

my @small = map {"/small/$_"} 1 .. 200;
is scalar(grep { $_ == 200 } enroll_many($t, @small)), 200, '200 secrets';
my ($pid, $pipe) = copy();
kill 'KILL', $pid;
close $pipe;
my @more = map {"/more/$_"} 1 .. 150;
is scalar(grep { $_ == 200 } map { enroll_many($t, $_) } @more), 150,
    'a copy that was killed: 150 more, one by one';

($pid, $pipe) = copy();
is scalar(grep { $_ == 200 } map { enroll_many($t, $_) }
        '/confirm/put', '/confirm/create'), 2, 'two that are pending';
my @last;
ok wait_for(sub {
    my $key = '/last/' . $n++;
    my ($status) = enroll_many($t, $key);
    push @last, $key if $status == 200;
    return $status == 503;
}), 'a copy that is stuck: the store gets full';
is join(' ', enroll_many($t, '/none')), 503, 'and takes no more';
is scalar(grep { $_ == 200 } verify_many($t, @small[0 .. 19])), 20,
    'deliveries verify';
ok wait_for(sub { !grep { !proven($_) } @small[0 .. 19] }),
    'their times are written';
for my $key (@small[20 .. 59]) {
    my $status
        = $t->call('DELETE', "/api/hooks?key=localhost$key")->{status};
    is $status, 204, 'one is revoked' if $status != 204 || $key =~ /60$/;
}
is $t->call('PUT', '/api/hooks?key=localhost/confirm/put',
    ['X-Hook-Secret: ' . secret_of('/confirm/put')])->{status}, 200,
    'one is confirmed';
is join(' ', verify_many($t, '/confirm/put')), 200, 'and verifies';
$t->answer(201, '', sprintf '{"X-Hook-Secret":"%s"}',
    secret_of('/confirm/create'));
is $t->call('POST', '/create', [], 'x')->{status}, 201, 'a create call';
$t->answer(200, '', 'app');
is join(' ', verify_many($t, '/confirm/create')), 200, 'confirms the other';
kill 'KILL', $pid;
close $pipe;
ok wait_for(sub { (enroll_many($t, '/after'))[0] == 200 }),
    'without the copy there is room again';
my @all = (@small[0 .. 19, 60 .. 199], @more, @last, '/after');
is scalar(grep { $_ == 200 } verify_many($t, @all)), scalar @all,
    'nothing is lost';
$t->end;

done_testing;
