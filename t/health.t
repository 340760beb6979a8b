# Tests for health: what an answer makes of a secret, merges of what several
# workers and hosts have noted, and what the operator is told of that.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Units;

my $units = Units->new('policy', 'health');

# times of a secret: verified, answered, failing; and the code

sub secret {
    my ($verified, $answered, $failing, $code) = @_;
    return "0011223344556677:1:100:$verified:$answered:$failing:$code:0::"
        . 'a-secret-that-is-known';
}

sub known {
    my ($line) = @_;
    my (undef, undef, undef, @times) = split /:/, (split ' ', $line)[-1];
    return "@times[0 .. 3]";
}

# [what, now, code, success, before, after]

my @notes = (
    ['the first success',    500, 200, 1, [0, 0, 0, 0], '0 500 0 200'],
    ['the first failure',    500, 503, 0, [0, 0, 0, 0], '0 0 500 503'],
    ['another failure',      510, 404, 0, [500, 0, 500, 503], '500 0 500 404'],
    ['a success after it',   520, 204, 1, [510, 0, 500, 404], '510 520 0 204'],
    ['a failure after that', 521, 499, 0, [520, 520, 0, 204],
        '520 520 521 499'],
    ['a failure in the second of a success', 520, 500, 0, [520, 520, 0, 204],
        '520 520 0 500'],
    ['a success in the second of a failure', 520, 200, 1, [520, 0, 520, 500],
        '520 520 0 200'],
    ['a clock that was set back', 400, 200, 1, [520, 520, 0, 200],
        '520 520 0 200'],
    ['and a failure then', 400, 500, 0, [520, 520, 0, 200], '520 520 0 500'],
);

my @got = $units->run(map {"note @$_[1 .. 3] " . secret(@{$_->[4]})} @notes);
is known($got[$_]), $notes[$_][5], $notes[$_][0] for 0 .. $#notes;

# [what, one, other, both, whether it is news to the other one]

my @merges = (
    ['the same', [500, 500, 0, 200], [500, 500, 0, 200], '500 500 0 200'],
    ['a later success', [500, 500, 0, 200], [600, 600, 0, 204],
        '600 600 0 204'],
    ['a failure that is new', [500, 500, 0, 200], [600, 500, 550, 503],
        '600 500 550 503'],
    ['the first of two failures', [700, 0, 500, 503], [600, 0, 550, 404],
        '700 0 500 503'],
    ['a success ends both', [700, 0, 500, 503], [700, 600, 0, 200],
        '700 600 0 503'],
    ['but not a later one', [700, 0, 500, 503], [700, 600, 650, 404],
        '700 600 650 503'],
    ['a success in the second of a failure', [500, 0, 500, 503],
        [500, 500, 0, 200], '500 500 0 503'],
    ['nothing is known here', [0, 0, 0, 0], [500, 0, 500, 503],
        '500 0 500 503'],
);

for my $m (@merges) {
    my ($what, $one, $other, $both) = @$m;
    my ($ab, $ba) = $units->run(
        'merge ' . secret(@$one) . ' ' . secret(@$other),
        'merge ' . secret(@$other) . ' ' . secret(@$one));
    for ([$ab, $one], [$ba, $other]) {
        my ($line, $mine) = @$_;
        my ($news, $first) = split ' ', $line;
        is known($first), $both, $what;
        is $news, "@$mine" eq $both ? 0 : 1, 'news or not';
    }
}

# random ones: whoever adds to whom, and once is enough

my @lines;
my $at = sub { return $_[rand @_] };

for (1 .. 20_000) {
    my @one = map { secret($at->(0, 5 .. 9), $at->(0, 5 .. 9),
            $at->(0, 5 .. 9), $at->(0, 200, 404, 503)) } 1, 2;
    push @lines, "merge @one", "merge @one[1, 0]";
}

@got = map { (split)[1] } $units->run(@lines);
my @odd = grep { known($got[2 * $_]) ne known($got[2 * $_ + 1]) }
    0 .. $#got / 2;
is @odd, 0, 'the same for whoever adds to whom' or diag $lines[2 * $odd[0]];

my @again = $units->run(map { "merge $got[2 * $_] "
            . (split ' ', $lines[2 * $_])[2] } 0 .. $#got / 2);
is scalar(grep { !/^0 / } @again), 0, 'and nothing is news twice';

# the health of a secret: [what, created, verified, answered, failing, pending,
# health], in seconds before now

my $hour = 3600;
my $now  = 1_800_000_000;
my @states = (
    ['made now',                  0, undef, undef, undef, 0, 'new'],
    ['a clock that is behind',  -60, undef, undef, undef, 0, 'new'],
    ['nothing for nearly 9 h', 9 * $hour - 1, undef, undef, undef, 0, 'new'],
    ['nothing for 9 h',        9 * $hour, undef, undef, undef, 0, 'late'],
    ['nothing for 25 h',      25 * $hour, undef, undef, undef, 0, 'dead'],
    ['a delivery now',        90 * $hour, 0, 0, undef, 0, 'ok'],
    ['not answered yet',      90 * $hour, 0, undef, undef, 0, 'ok'],
    ['a heartbeat in time',   90 * $hour, 8 * $hour, 8 * $hour, undef, 0, 'ok'],
    ['nearly late', 90 * $hour, 9 * $hour - 1, 9 * $hour, undef, 0, 'ok'],
    ['late',        90 * $hour, 9 * $hour, 9 * $hour, undef, 0, 'late'],
    ['nearly dead', 90 * $hour, 25 * $hour - 1, 26 * $hour, undef, 0, 'late'],
    ['dead',        90 * $hour, 25 * $hour, 26 * $hour, undef, 0, 'dead'],
    ['the first one failed',  $hour, 0, undef, 0, 0, 'failing'],
    ['it fails now',          90 * $hour, 0, $hour, 0, 0, 'failing'],
    ['failing, and nothing came', 90 * $hour, 10 * $hour, 11 * $hour,
        10 * $hour, 0, 'failing'],
    ['failing for nearly 24 h', 90 * $hour, 0, 25 * $hour, 24 * $hour - 1, 0,
        'failing'],
    ['failing for 24 h',    90 * $hour, 0, 25 * $hour, 24 * $hour, 0, 'dead'],
    ['failing, then silent for 25 h', 90 * $hour, 25 * $hour, 26 * $hour,
        25 * $hour, 0, 'dead'],
    ['pending',          0, undef, undef, undef, 1, 'pending'],
    ['pending for long', 90 * $hour, undef, undef, undef, 1, 'pending'],
    ['pending, whatever its times are', 90 * $hour, 0, 0, 80 * $hour, 1,
        'pending'],
);

sub state {
    my ($n, $s) = @_;
    my (undef, @at) = @$s;
    my @times = map { defined $_ ? $now - $_ : 0 } @at[0 .. 3];
    return sprintf '%016x:1:%d:%d:%d:%d:%d:%d::another-secret-%04d', $n,
        @times, $at[3] ? 500 : 200, $at[4], $n;
}

@got = $units->run(map {"health $now " . state(1, $_)} @states);
is $got[$_], join(' ', ($states[$_][6]) x 2), $states[$_][0] for 0 .. $#states;

# of a key: the worst of those that are confirmed

my @order = qw(pending ok new late failing dead);
my %of = map { $_->[6] => $_ } @states;
my (@keys, @worst);

for my $one (0 .. $#order) {
    for my $two (0 .. $#order) {
        push @keys, join ' ', "health $now",
            state(1, $of{$order[$one]}), state(2, $of{$order[$two]});
        push @worst, $order[$one > $two ? $one : $two];
    }
}

is_deeply [map { (split)[-1] } $units->run(@keys)], \@worst,
    'the worst of two';
is_deeply [$units->run("health $now")], ['pending'], 'none at all';

done_testing;
