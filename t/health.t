# Tests for what is known of answers: notes of one secret, and merges of what
# several workers and hosts have noted.

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

done_testing;
