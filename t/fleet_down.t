# Tests for a host of a fleet whose server is stopped, frozen or unreachable:
# what it knows goes on at its usual pace, nothing is said of the rest, workers
# end in time.  And for a flood of forgeries, which is none for the server.

use strict;
use warnings;

use lib 't/lib';

use IO::Select;
use Test::More;
use Time::HiRes qw(sleep time);

use Fleet;
use Postgres;
use Receiver qw(raw request response sign wait_for);
use Relay;

Fleet::usable();

my $timeout = 1;
my $zone    = 'poll=300ms timeout=1s';
my $pg      = Postgres->new;
my $relay   = Relay->new($pg->{port});
my ($near)  = Fleet::hosts($pg, 1, zone => $zone, workers => 1);
my ($far)   = Fleet::hosts($pg, 1, zone => $zone, workers => 1,
    uri => $pg->uri($relay->{port}));

my $known = Fleet::secret();
my $fresh = 0;

sub quantile {
    my ($q, @times) = @_;
    @times = sort { $a <=> $b } @times;
    return 1000 * $times[@times * $q];
}

# Deliveries of a known secret and a static file, one after the other, for some
# seconds, while others ask for what needs the server: how often, the longest
# in milliseconds but for 1 in 100, the one in parts of the other, all answers.

sub load {
    my ($host, $seconds) = @_;
    my ($n, %got) = 0;
    my @needy = map {
        my $i = $_;
        +{ s => $host->connection, due => 0, make => sub {
            my $secret = Fleet::secret();
            my $n      = ++$fresh;
            return $i % 3 == 0 ? Fleet::handshake("/new/$n", $secret)
                : $i % 3 == 1 ? Fleet::event("/none/$n", $secret)
                :               Fleet::event('/known', $secret);
        } }
    } 1 .. 6;
    my %s     = map { $_ => $host->connection } qw(static known);
    my %times = (static => [], known => []);
    my $end   = time + $seconds;

    while (time < $end) {
        for my $one (@needy) {
            if ($one->{waits}) {
                next if !IO::Select->new($one->{s})->can_read(0);
                $got{needy}{ response($one->{s})->{status} }++;
                @$one{qw(waits due)} = (0, time + 0.02);
            }
            elsif (time > $one->{due}) {
                request($one->{s}, $one->{make}->());
                $one->{waits} = 1;
            }
        }
        for my $what (qw(static known)) {
            my $raw = $what eq 'static'
                ? Fleet::get('/static')
                : Fleet::heartbeat('/known', $known);
            my $start = time;
            request($s{$what}, $raw);
            $got{$what}{ response($s{$what})->{status} }++;
            push @{ $times{$what} }, time - $start;
        }
        $n++;
    }
    for my $one (grep { $_->{waits} } @needy) {
        $got{needy}{ response($one->{s})->{status} }++;
    }
    return {
        rate   => $n / $seconds,
        static => quantile(0.99, @{ $times{static} }),
        known  => quantile(0.99, @{ $times{known} }),
        ratio  => quantile(0.5, @{ $times{known} })
            / quantile(0.5, @{ $times{static} }),
        got    => { map { my $w = $_; $w => join ' ', sort keys %{ $got{$w} } }
            keys %got }
    };
}

# in the zones, and the journal's word on it has come

Fleet::ask([$near, Fleet::handshake('/known', $known)]);
sleep 0.7;
Fleet::ask(map { [$_, Fleet::heartbeat('/known', $known)] } $near, $far);
sleep 0.5;

my %usual = (near => load($near, 1.5), far => load($far, 1.5));
is_deeply $usual{$_}{got},
    { static => 200, known => 200, needy => '200 403' }, "as usual, $_"
    for qw(near far);

for (
    ['stopped', $near, 'near', sub { $pg->stop('QUIT') }, sub { $pg->start }],
    ['frozen',  $near, 'near', sub { $pg->freeze },       sub { $pg->thaw }],
    ['unreachable', $far, 'far', sub { $relay->mode('freeze') },
        sub { $relay->mode('pass') }],
    ['cut off', $far, 'far', sub { $relay->mode('cut') },
        sub { $relay->mode('pass') }]
    )
{
    my ($what, $host, $name, $down, $up) = @$_;
    $down->();
    my $l = load($host, 2.5);
    $up->();
    my $usual = $usual{$name};
    is_deeply $l->{got}, { static => 200, known => 200, needy => 503 },
        "$what: known secrets verify, nothing is said of others";
    cmp_ok $l->{$_}, '<', 50 + $usual->{$_},
        sprintf '99 %% of %s: %.1f ms, usually %.1f', $_, $l->{$_}, $usual->{$_}
        for qw(static known);
    cmp_ok $l->{ratio}, '<', 1 + 2 * $usual->{ratio},
        sprintf '%.0f a second, usually %.0f, %.2f of static, usually %.2f',
        $l->{rate}, $usual->{rate}, $l->{ratio}, $usual->{ratio};
    ok wait_for(sub {
        my $secret = Fleet::secret();
        Fleet::status(Fleet::ask(
            [$host, Fleet::handshake('/back/' . ++$fresh, $secret)],
            [$host, Fleet::event('/known', $secret)])) eq '200 403';
    }, 20), 'and all goes on';
}

# A worker that is to go while its threads wait for a frozen server.

sub cpu {
    my $sum = 0;
    for my $file (map { glob "/proc/$_/task/*/schedstat" } @_) {
        open my $fh, '<', $file or next;
        my ($ns) = (<$fh> || '') =~ /^(\d+)/;
        close $fh;
        $sum += ($ns || 0) / 1e9;
    }
    return $sum;
}

for my $signal (qw(HUP QUIT)) {
    my @old = $near->workers;
    push @old, $near->master if $signal eq 'QUIT';
    $pg->freeze;
    my @waits = map { request($near->connection, $_) }
        Fleet::handshake("/frozen/$signal", Fleet::secret()),
        Fleet::event("/frozen/none/$signal", Fleet::secret());
    push @waits, request($near->connection, Fleet::handshake('/known', $known))
        if $signal eq 'QUIT';
    sleep 0.1;
    my ($start, $before, $used) = (time, cpu(@old), 0);
    kill $signal, $near->master;
    my @got = map { response($_)->{status} } @waits;
    close $_ for @waits;
    my $gone = wait_for(sub {
        my $now = cpu(@old) - $before;
        $used = $now if $now > $used;
        Receiver::gone(@old);
    }, 20);
    my $took = time - $start;
    ok $gone, "$signal: the workers end";
    cmp_ok $took, '<=', $timeout + 1, sprintf 'after %.2f s', $took;
    cmp_ok $used, '<', 0.2, sprintf 'with %.0f ms of CPU time', 1000 * $used;
    is "@got", join(' ', (503) x @got), 'after an answer to all who waited';
    $pg->thaw;
    Fleet::forget($near);
    $near->start if $signal eq 'QUIT';
    ok wait_for(sub {
        Fleet::status(Fleet::ask([$near,
            Fleet::handshake('/again/' . ++$fresh, Fleet::secret())])) eq '200';
    }, 20), 'and others go on';
}

# A flood of forgeries to random keys: at most 20 queries a second of a worker
# and those of the journal.

{
    my $workers = 2;
    my ($host) = Fleet::hosts($pg, 1, workers => $workers,
        uri => $pg->uri . '?application_name=flood');
    Fleet::ask(map { [$host, Fleet::event("/$_", 'x' x 20)] } 1 .. 32) for 1, 2;
    my $from  = length $pg->log;
    my $start = time;
    my @r;
    while (time < $start + 2) {
        push @r, Fleet::ask(map {
            [$host, Fleet::event('/random/' . ++$fresh, Fleet::secret())]
        } 1 .. 64);
    }
    my $took = time - $start;
    my $pids = join '|', split /\n/, $pg->sql(q{SELECT pid FROM pg_stat_activity
        WHERE application_name = 'flood'});
    my $queries = () = substr($pg->log, $from) =~ /\[(?:$pids)\]\ LOG:
        \ \ statement:\ BEGIN/gx;
    is scalar(grep { $_->{status} != 403 } @r), 0,
        @r . ' forgeries are rejected';
    cmp_ok $queries, '<=', ($workers * 20 + 1 / 0.3) * $took + 4,
        sprintf '%d queries in %.1f s', $queries, $took;
    cmp_ok $queries, '>', 0, 'which are counted';
    $host->end;
}

for my $host ($near, $far) {
    $host->secrecy('plain-secret');
    $host->end;
}
$pg->end;

done_testing;
