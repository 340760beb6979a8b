# Tests for the alerts of share/prometheus-rules.yml: what is well fires
# nothing, and each failure of t/data/alerts what it says, and when.

use strict;
use warnings;

use lib 't/lib';

use Cwd qw(getcwd);
use File::Temp qw(tempdir);
use Test::More;

use Slurp;

my $file  = 'share/prometheus-rules.yml';
my $rules = slurp($file);
my @rules = $rules =~ /^( +- alert: .*?)(?=^ +- alert: |\z)/msg;
my @names = map {/alert: (\w+)/} @rules;

# each tells what it is, how bad, and where to read on

my $page = slurp('docs/operation.md');
my %anchors;
for my $head ($page =~ /^#+ (.*)$/mg) {
    my $anchor = lc $head =~ s/[^\w -]//gr;
    $anchor =~ tr/ /-/;
    $anchors{$anchor} = 1;
}

for my $i (0 .. $#rules) {
    my ($rule, $name) = ($rules[$i], $names[$i]);
    like $rule, qr/severity: (?:critical|warning)$/m, "$name: severity";
    like $rule, qr/$_: \S/, "$name: $_" for qw(summary description);
    ok $page =~ /^\| `$name` \|/m, "$name: a row of the page";
    my ($anchor) = $rule =~ m{runbook_url: docs/operation\.md#(\S+)};
    ok $anchors{$anchor}, "$name: $anchor is a chapter of the page";
}

# "+ NAME" begins a case, "= TIME ALERT..." tells what fires then, for what was
# stays; its series replace those of the first case

my (@cases, %well);
for (split /\n/, slurp('t/data/alerts')) {
    next if /^(?:#|$)/;
    if (/^\+ (.*)/) {
        push @cases, {name => $1, fires => [], series => {%well}};
        next;
    }
    if (/^= (\d+[mh]) *(.*)/) {
        push @{$cases[-1]{fires}}, [$1, split / /, $2];
        next;
    }
    my ($series, $values) = /^(\S+) +(.*)/;
    $cases[-1]{series}{$series} = $values;
    $well{$series} = $values if @cases == 1;
}
my @times = map { @{$_->{fires}} } @cases;
my %fired = map { $_ => 1 } map { @$_[1 .. $#$_] } @times;
is_deeply [sort keys %fired], [sort @names], 'each alert has a case';

# what promtool reads; for hours it looks each 5 minutes, as it takes its time

sub text {
    my ($case) = @_;
    my $every = grep({ $_->[0] =~ /h/ } @{$case->{fires}}) ? '5m' : '1m';
    my $text = "evaluation_interval: $every\n"
        . 'rule_files: [' . getcwd() . "/$file]\ntests:\n"
        . "- interval: 1m\n  input_series:\n";
    for my $series (sort keys %{$case->{series}}) {
        (my $full = $series) =~ s/(?:\{(.*)\})?$/
            '{zone="hooks",instance="a"' . ($1 ? ",$1" : '') . '}'/e;
        $text .= "  - {series: '$full', values: "
            . "'$case->{series}{$series}'}\n";
    }
    $text .= "  promql_expr_test:\n";
    for my $at (@{$case->{fires}}) {
        my ($time, @alerts) = @$at;
        $text .= '  - expr: count by (alertname) '
            . "(ALERTS{alertstate=\"firing\"})\n    eval_time: $time\n"
            . "    exp_samples:\n";
        $text .= "    - {labels: '{alertname=\"$_\"}', value: 1}\n"
            for @alerts;
    }
    return $text;
}

SKIP: {
    skip 'no promtool (Debian: prometheus)', 1 + @cases
        if !grep { -x "$_/promtool" } split /:/, $ENV{PATH};
    my $said = qx(promtool check rules $file 2>&1);
    is $?, 0, 'the rules are well-formed' or diag $said;

    my $dir = tempdir(CLEANUP => 1);
    for my $case (@cases) {
        open my $f, '>', "$dir/test.yml" or die "$dir: $!\n";
        print {$f} text($case);
        close $f or die "$dir: $!\n";
        $said = qx(promtool test rules $dir/test.yml 2>&1);
        is $?, 0, join '; ', $case->{name}, map {"@$_"} @{$case->{fires}}
            or diag $said;
    }
}

done_testing;
