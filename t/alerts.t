# Tests for the alerts of share/prometheus-rules.yml: what is well fires none,
# each failure of t/data/alerts fires its own alert and no other one.

use strict;
use warnings;

use lib 't/lib';

use Cwd qw(getcwd);
use File::Temp qw(tempdir);
use Test::More;

sub slurp {
    my ($name) = @_;
    open my $f, '<', $name or die "$name: $!\n";
    local $/ = undef;
    return <$f>;
}

my $file  = 'share/prometheus-rules.yml';
my $rules = slurp($file);
my @rules = $rules =~ /^( +- alert: .*?)(?=^ +- alert: |\z)/msg;
my @names = map {/alert: (\w+)/} @rules;

# each tells what it is, how bad, and where to read on

my %anchors;
for my $head (slurp('docs/operation.md') =~ /^#+ (.*)$/mg) {
    my $anchor = lc $head =~ s/[^\w -]//gr;
    $anchor =~ tr/ /-/;
    $anchors{$anchor} = 1;
}

for my $i (0 .. $#rules) {
    my ($rule, $name) = ($rules[$i], $names[$i]);
    like $rule, qr/severity: (?:critical|warning)$/m, "$name: severity";
    like $rule, qr/$_: \S/, "$name: $_" for qw(summary description);
    my ($anchor) = $rule =~ m{runbook_url: docs/operation\.md#(\S+)};
    ok $anchors{$anchor}, "$name: $anchor is a chapter of the page";
}

# metrics are those that are documented

my $page = slurp('docs/reference.md');
my %used = map { $_ => 1 } $rules =~ /(asana_hook_store_\w+)/g;
delete $used{asana_hook_store};
for my $metric (sort keys %used) {
    $metric =~ s/_bucket$//;
    like $page, qr/`$metric`/, "$metric is in the reference";
}

# "+ NAME" begins a case that fires it, "+" one that fires none; its series
# replace those of the first case

my (@cases, %well);
for (split /\n/, slurp('t/data/alerts')) {
    next if /^(?:#|$)/;
    if (/^\+ (AsanaHook\w+)? *(.*)/) {
        push @cases, {alert => $1 // '', name => $2, series => {%well}};
        next;
    }
    my ($series, $values) = /^(\S+) +(.*)/;
    $cases[-1]{series}{$series} = $values;
    $well{$series} = $values if @cases == 1;
}
is_deeply [grep {length} map { $_->{alert} } @cases], \@names,
    'each alert has a case, in their order';

SKIP: {
    skip 'no promtool (Debian: prometheus)', 1 + @cases
        if !grep { -x "$_/promtool" } split /:/, $ENV{PATH};
    my $said = qx(promtool check rules $file 2>&1);
    is $?, 0, 'the rules are well-formed' or diag $said;

    my $top = getcwd();
    my $dir = tempdir(CLEANUP => 1);
    for my $case (@cases) {
        my $text = "rule_files: [$top/$file]\ntests:\n- interval: 1m\n"
            . "  input_series:\n";
        for my $series (sort keys %{$case->{series}}) {
            my $values = $case->{series}{$series};
            (my $full = $series) =~ s/(?:\{(.*)\})?$/
                '{zone="hooks",instance="a"' . ($1 ? ",$1" : '') . '}'/e;
            $text .= "  - {series: '$full', values: '$values'}\n";
        }
        $text .= "  promql_expr_test:\n  - expr: count by (alertname) "
            . "(ALERTS{alertstate=\"firing\"})\n    eval_time: 40m\n"
            . "    exp_samples:\n";
        $text .= "    - {labels: '{alertname=\"$case->{alert}\"}', value: 1}\n"
            if $case->{alert};
        open my $f, '>', "$dir/test.yml" or die "$dir: $!\n";
        print {$f} $text;
        close $f or die "$dir: $!\n";
        $said = qx(promtool test rules $dir/test.yml 2>&1);
        is $?, 0, join ' ', "$case->{name}:", $case->{alert} || 'nothing'
            or diag $said, $text;
    }
}

done_testing;
