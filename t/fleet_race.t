# Tests for hosts of a fleet that change the same keys: races, a random walk
# beside the model of the policy, what one host took or revoked.

use strict;
use warnings;

use lib 't/lib';

use JSON::PP qw(decode_json);
use List::Util qw(shuffle);
use Test::More;
use Time::HiRes qw(sleep time);

use Fleet;
use Policy qw(@fields model);
use Postgres;
use Receiver qw(secret_id wait_for);

Fleet::usable();

my $poll  = 0.3;
my $max   = 3;
my $pg    = Postgres->new;
my @hosts = Fleet::hosts($pg, 3,
    zone => "poll=${\(1000 * $poll)}ms max_secrets=$max");

my $seed = $ENV{ASANA_HOOK_SEED} || time ^ $$;
srand $seed;

my $races       = 1000;
my $steps       = $ENV{ASANA_HOOK_STEPS}  || 120;
my $firsts      = $ENV{ASANA_HOOK_FIRSTS} || 200;
my $revocations = $ENV{ASANA_HOOK_ROUNDS} || 20;

sub pick { return $_[rand @_] }

# two first handshakes for each key, at once, on different hosts

{
    my (@asked, %won);
    for my $n (1 .. $races) {
        my @two = (shuffle 0 .. 2)[0, 1];
        push @asked, map { [$n, $_, Fleet::secret()] } @two;
    }
    my @r = Fleet::ask(map {
        [$hosts[$_->[1]], Fleet::handshake("/race/$_->[0]", $_->[2])]
    } @asked);
    my %told;
    for my $i (grep { $_ % 2 == 0 } 0 .. $#r) {
        $told{ join ' ', sort map { $_->{status} } @r[$i, $i + 1] }++;
        my ($winner) = grep { $r[$_]{status} == 200 } $i, $i + 1;
        $won{ $asked[$i][0] } = $winner;
    }
    is_deeply \%told, { '200 403' => $races },
        "$races races: one of two is echoed";
    my (@wanted, @deliveries);
    for my $i (0 .. $#asked) {
        my ($n, undef, $secret) = @{ $asked[$i] };
        my $won = defined $won{$n} && $won{$n} == $i;
        for my $host (@hosts) {
            push @wanted, $won ? 200 : 403;
            push @deliveries, [$host, Fleet::heartbeat("/race/$n", $secret)];
        }
    }
    my @got = Fleet::ask(@deliveries);
    is scalar(grep { $got[$_]{status} != $wanted[$_] } 0 .. $#got), 0,
        'and verifies on all hosts, the other on none';
}

# a create call, whose secret waits under two keys of which one is full

{
    my $secret = Fleet::secret();
    Fleet::ask(map { [$hosts[1], Fleet::handshake("$_?p=confirm", $secret)] }
        qw(/full /free));
    Fleet::ask(map { [$hosts[0], Fleet::put('/full', Fleet::secret())] }
        1 .. $max);
    my ($r) = Fleet::ask([$hosts[2], Fleet::create($secret, 12)]);
    is Fleet::word($r), 'REFUSED', 'of two keys one is full';
    like $hosts[2]->slurp('error.log'), qr{revoke localhost/full"},
        'and the log names it';
    is Fleet::status(Fleet::ask([$hosts[0], Fleet::event('/full', $secret)])),
        503, 'it waits there';
    my ($d) = Fleet::ask([$hosts[0], Fleet::heartbeat('/free', $secret)]);
    is Fleet::word($d), 'HEARTBEAT', 'and has a place under the other one';
}

# A walk.  All keys are asked for something at once, each by one host, and the
# answers are those of the model.  What was revoked, or replaced, may verify
# for "poll" and a round trip on other hosts.

{
    local $Policy::inactive = 86400;
    my (%sets, %until, %seen, @wrong);
    my @keys = map {"/walk/$_"} 1 .. 24;
    $sets{$_} = [] for @keys;

    my $tie = sub {
        my ($set) = @_;
        my @at = sort { $a <=> $b }
            map { $_->{created} } grep { $_->{pending} } @{$set};
        return @at > 1 && $at[1] - $at[0] < 3;
    };

    my $step = sub {
        my ($key) = @_;
        my $n    = int rand 6;
        my $text = "plain-secret-$n-of-$key-" . 'x' x $n;
        $text =~ tr{/}{-};
        my %c = (
            type => pick(qw(handshake handshake put confirm revoke),
                ('note') x 4),
            enroll   => pick(qw(off first open confirm confirm)),
            creating => 0,
            all      => pick((0) x 3, 1),
            verified => 0,
            gid      => 1200 + $n,
            answered => int time,
            failing  => 0,
            code     => 200,
            id       => secret_id($text),
            text     => $text
        );

        # which of two is older cannot be told

        $c{enroll} = 'open' if $c{enroll} eq 'confirm' && $tie->($sets{$key});
        return {
            key  => $key,
            host => int rand 3,
            c    => \%c,
            raw  => $c{type} eq 'handshake'
            ? Fleet::handshake("$key?p=$c{enroll}", $text)
            : $c{type} eq 'put'     ? Fleet::put($key, $text)
            : $c{type} eq 'confirm' ? Fleet::create($text, $c{gid})
            : $c{type} eq 'revoke'
            ? Fleet::revoke($key, $c{all} ? undef : $text)
            : pick(Fleet::heartbeat($key, $text), Fleet::event($key, $text))
        };
    };

    my %status = (
        handshake => { REFUSED => 403 },
        put       => { ADDED   => 201, REFUSED => 409 },
        confirm   => { ABSENT  => 'UNMATCHED', REFUSED => 'REFUSED' },
        revoke    => { CHANGED => 204, ABSENT => 404 }
    );

    for my $n (1 .. $steps) {
        my @asked = map { $step->($_) } @keys;
        my @r     = Fleet::ask(map { [$hosts[$_->{host}], $_->{raw}] } @asked);
        my $now   = time;
        for my $a (@asked) {
            my $r     = shift @r;
            my $c     = $a->{c};
            my $type  = $c->{type};
            my $set   = $sets{ $a->{key} };
            my ($old) = grep { $_->{text} eq $c->{text} } @{$set};
            my ($is, $why, @new) = model($set, $c, int $now, $max);
            my ($got, @want) = $r->{status};
            if ($type eq 'note') {
                $got  = Fleet::word($r);
                @want = !@{$set} ? 'UNKNOWN'
                    : !$old           ? 'INVALID'
                    : $old->{pending} ? 'PENDING'
                    :                   qw(HEARTBEAT VERIFIED);
                my $gone = $until{ $a->{key} }{ $c->{text} };
                push @want, qw(HEARTBEAT VERIFIED)
                    if $gone
                    && $gone->{host} != $a->{host}
                    && $now - $gone->{time} < $poll + 0.5;
            }
            elsif ($type eq 'confirm') {
                $got  = Fleet::word($r);
                @want = $status{confirm}{$is} || 'CONFIRMED';
            }
            else {
                @want = $status{$type}{$is} || 200;
            }
            $seen{"$type $want[0]"}++;
            if (!grep { $_ eq $got } @want) {
                push @wrong, "step $n $a->{key} host $a->{host}: $type "
                    . "$c->{enroll} $c->{text}: $got, not @want";
            }

            # what it was is not changed by an answer that was none

            next if $is ne 'ADDED' && $is ne 'CHANGED';
            $sets{ $a->{key} } = \@new;
            for my $s (grep { !$_->{pending} } @{$set}) {
                my ($left) = grep { $_->{text} eq $s->{text} } @new;
                $until{ $a->{key} }{ $s->{text} }
                    = { host => $a->{host}, time => $now }
                    if !$left || $left->{pending};
            }
        }
    }
    is scalar @wrong, 0, sprintf 'a walk of %d requests, seed %s',
        $steps * @keys, $seed
        or diag join "\n", @wrong[0 .. ($#wrong < 9 ? $#wrong : 9)];
    cmp_ok scalar keys %seen, '>=', 13, 'nearly all that can be was met'
        or diag join ', ', map {"$_: $seen{$_}"} sort keys %seen;

    my $differ = 0;
    for my $host (@hosts) {
        my @r = Fleet::ask(map {
            [$host, Fleet::get("/api/hooks?key=localhost$_")]
        } @keys);
        for my $key (@keys) {
            my $r      = shift @r;
            my @stored = $r->{status} == 404
                ? ()
                : @{ decode_json($r->{body})->{secrets} };
            my $got = join ' ', sort map {"$_->{id} $_->{state}"} @stored;
            my $want = join ' ', sort map {
                $_->{id} . ($_->{pending} ? ' pending' : ' active')
            } @{ $sets{$key} };
            $differ++, diag "$key: $got, not $want" if $got ne $want;
        }
    }
    is $differ, 0, 'in the end all hosts have the secrets of the model';
}

# What one host took another one verifies, at the first try.  Every fourth key
# has another secret, which is in the zone of that host.

{
    my @firsts = map { +{
        key    => "/first/$_?p=open",
        old    => $_ % 4 ? undef : Fleet::secret(),
        secret => Fleet::secret(),
        hosts  => [(shuffle @hosts)[0, 1]]
    } } 1 .. $firsts;
    for my $text (qw(handshake heartbeat)) {
        my $code = Fleet->can($text);
        Fleet::ask(map { [$_->{hosts}[1], $code->($_->{key}, $_->{old})] }
            grep { $_->{old} } @firsts) for 1, 2;
    }
    my %told;
    while (my @some = splice @firsts, 0, 10) {
        my @r = Fleet::ask(map {
            [$_->{hosts}[0], Fleet::handshake($_->{key}, $_->{secret})]
        } @some);
        my @d = Fleet::ask(map {
            [$_->{hosts}[1], Fleet::heartbeat($_->{key}, $_->{secret})]
        } @some);
        $told{ Fleet::status($r[$_], $d[$_]) }++ for 0 .. $#some;
    }
    is_deeply \%told, { '200 200' => $firsts },
        "$firsts secrets verify on another host at once";
}

# a revocation: how long after its answer another host still verifies

{
    my @rounds = map { ["/gone/$_", Fleet::secret()] } 1 .. $revocations;
    Fleet::ask(map { [$hosts[0], Fleet::handshake(@$_)] } @rounds);

    # the journal's word on them comes, and after it they stay in all zones

    sleep $poll + 0.2;
    my @all = map { my $round = $_; map { [$_, Fleet::heartbeat(@$round)] }
        @hosts } @rounds;
    my @r = map { Fleet::ask(@all) } 1, 2;
    is scalar(grep { $_->{status} != 200 } @r), 0, 'secrets in all zones';
    sleep $poll + 0.2;

    my (@took, @here);
    for my $round (@rounds) {
        my ($from, @others) = shuffle @hosts;
        sleep rand $poll;
        my @gone  = Fleet::ask([$from, Fleet::revoke(@$round)]);
        my $start = time;
        push @here, Fleet::status(@gone,
            Fleet::ask([$from, Fleet::heartbeat(@$round)]));
        my $last = 0;
        while (@others && time - $start < 5) {
            my $sent = time;
            my @r = Fleet::ask(map { [$_, Fleet::heartbeat(@$round)] } @others);
            @others = map { $others[$_] }
                grep { $r[$_]{status} == 200 } 0 .. $#others;
            $last = $sent - $start if @others;
        }
        push @took, $last;
    }
    is join(' ', grep { $_ ne '204 403' } @here), '',
        "$revocations revocations hold on their host at once";
    @took = sort { $a <=> $b } @took;
    my $text = sprintf 'on the last host after %.0f ms, half of them %.0f ms',
        1000 * $took[-1], 1000 * $took[$#took / 2];
    cmp_ok $took[-1], '<=', $poll + 0.2, $text;
    note $text;
}

for my $host (@hosts) {
    $host->secrecy('plain-secret');
    $host->end;
}
$pg->end;

done_testing;
