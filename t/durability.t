# Tests for the promise of a 200: the secret is stored, and it is the only one.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(raw request response wait_for);
use Storm;

my $secret = Storm::secret();
my $t      = Receiver->new(
    workers  => 2,
    location => 'asana_hook_heartbeat answer; add_header X-Pid $pid always;'
)->app;
# killed in the middle of a storm

$t->run;
my $storm = Storm->new($t);
$storm->killed for 1 .. 20;
is $storm->rounds, 20, '20 storms of handshakes, ended by SIGKILL';
cmp_ok scalar(my @keys = $storm->answered), '>=', 200,
    'many handshakes were answered';
is join(' ', $storm->lost), '', 'each of them is stored';
is join(' ', $storm->missing(@keys)), '', 'and none was lost later';
is scalar($storm->missing('/never')), 1, 'one that never was is missing';

# pairs of first handshakes, of which one each goes to one of two workers

sub connect_to {
    my ($port, @pids) = @_;
    return wait_for(sub {
        my $c = $t->connection($port);
        request($c, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        my ($pid) = response($c)->{head} =~ /^X-Pid: (\d+)/m;
        return (grep { $_ == $pid } @pids) ? $c : undef;
    }) || die "no connection to @pids";
}

sub echoed {
    my ($r, $own) = @_;
    return $r->{status} == 200
        && $r->{head} =~ /^X-Hook-Secret: \Q$own\E\r$/m;
}

sub refused {
    my ($r) = @_;
    return $r->{status} == 403 && $r->{head} !~ /^X-Hook-Secret:/mi;
}

sub race {
    my ($count, $name, @sides) = @_;
    my (@c, @wrong, %won);
    for my $n (1 .. $count) {
        my $key   = "/$name/$n";
        my @order = $n % 2 ? (0, 1) : (1, 0);
        for my $i (0, 1) {
            $c[$i] = connect_to(@{ $sides[$i] }) if $n % 400 == 1;
        }
        request($c[$_], raw($key, "X-Hook-Secret: $secret-$_", ''))
            for @order;
        my @r      = map { response($_) } @c;
        my ($winner) = grep { echoed($r[$_], "$secret-$_") } 0, 1;
        if (!defined $winner || !refused($r[1 - $winner])) {
            push @wrong, "$key: $r[0]{status} $r[1]{status}";
            next;
        }
        $won{$winner}++;
        next if $n % 10;
        my ($good, $bad)
            = map { $t->deliver($key, "$secret-$_", '{"events":[]}') }
            $winner, 1 - $winner;
        push @wrong, "$key: the other one verifies"
            if $good->{status} != 200 || $bad->{status} != 403;
    }
    is "@wrong", '', "$count pairs of $name: one echo for each";
    is scalar keys %won, 2, 'won by either side';
    return;
}

race(1000, 'workers', map { [$t->{port}, $_] } $t->workers);

# the two generations of an upgrade

SKIP: {
    my $old = $t->master;
    my @old = $t->workers;
    kill 'USR2', $old;
    my $both = wait_for(sub {
        $t->master && $t->master != $old && $t->workers == 2;
    });
    ok $both, 'USR2: two generations' or skip 'no upgrade', 2;
    race(300, 'generations', [$t->{port}, @old], [$t->{port}, $t->workers]);
    kill 'QUIT', $old;
    ok wait_for(sub { Receiver::gone($old, @old) }, 20), 'upgraded';
    is join(' ', $storm->missing(@keys)), '', 'nothing is lost';
}

# two nginx

my $other = Receiver->new(location => $t->{location});
(my $conf = $other->conf) =~ s{state=\S+}{state=$t->{dir}/state};
$other->app->run($conf);
race(300, 'instances', [$t->{port}, $t->workers],
    [$other->{port}, $other->workers]);
$other->end;

$t->end;
done_testing;
