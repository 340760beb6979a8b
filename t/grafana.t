# Tests for the dashboard of share/grafana.json, and for the metrics that it and
# the alerts name: nginx has them, with these labels and values.

use strict;
use warnings;

use lib 't/lib';

use File::Temp qw(tempdir);
use JSON::PP;
use Test::More;

use Receiver qw(wait_for);
use Slurp;

my $board = decode_json(slurp('share/grafana.json'));

# what each panel needs, and no two at the same place

my (%id, %cell, @exprs);
for my $panel (@{$board->{panels}}) {
    my ($name, $at) = @$panel{qw(title gridPos)};
    ok !$id{$panel->{id}}++, "$name: its own id";
    my @cells = map {
        my $x = $_;
        map {"$x,$_"} $at->{y} .. $at->{y} + $at->{h} - 1
    } $at->{x} .. $at->{x} + $at->{w} - 1;
    ok $at->{x} + $at->{w} <= 24 && !grep({ $cell{$_}++ } @cells),
        "$name: its own place";
    for my $target (@{$panel->{targets}}) {
        is $target->{datasource}{uid}, '${datasource}', "$name: data source";
        push @exprs, $target->{expr};
    }
}
cmp_ok scalar(@exprs), '>', 10, 'expressions';
my ($source, $zone) = @{$board->{templating}{list}};
is_deeply [@$source{qw(name type query)}],
    [qw(datasource datasource prometheus)], 'a variable for the data source';
is_deeply [@$zone{qw(name type)}], [qw(zone query)], 'and one for the zone';

# what nginx says, and what it says of a fleet alone

my $t = Receiver->new(
    server => 'location /api { asana_hook_api hooks; }
        location = /create {
            asana_hook_gateway hooks;
            proxy_pass http://127.0.0.1:1;
        }'
);
$t->run;
is $t->handshake('/a', 's' x 40)->{status}, 200, 'a handshake';
my $said;
wait_for(sub {
    $said = $t->call('GET', '/api/metrics')->{body};
    return $said =~ /^asana_hook_hooks/m;
});
$t->end;
$said .= "asana_hook_store_${_}{zone=\"hooks\"} 0\n"
    for qw(contact_seconds stale_seconds conflicts_total failures_total);

# each selector, and each of the values that it tells apart

my $text = join "\n", @exprs, $zone->{query}{query} =~ s/, zone\)/)/r,
    slurp('share/prometheus-rules.yml') =~ s/^\s*#.*$//mgr;
my %seen;
while ($text =~ /\b(asana_hook_\w+)(?:\{([^}]*)\})?/g) {
    my ($metric, $labels) = ($1, $2 // '');
    next if $metric =~ /^asana_hook_(?:store|webhooks)$/ || $seen{$&}++;
    like $said, qr/^$metric\b/m, $metric;
    while ($labels =~ /(\w+)(?:=~|=|!=)"([^"]*)"/g) {
        my ($label, $values) = ($1, $2);
        for my $value (split /\|/, $values) {
            my $want = $value eq '$zone' ? '[^"]+' : quotemeta $value;
            like $said, qr/^$metric\{[^}]*\b$label="$want"/m,
                "$metric: $label $value";
        }
    }
}
cmp_ok scalar(keys %seen), '>', 20, 'metrics';

# those of a directory and a fleet are in the reference

my $page = slurp('docs/reference.md');
for my $metric (sort { $a cmp $b } map {/(\w+)/} keys %seen) {
    $metric =~ s/_bucket$//;
    like $page, qr/`$metric[`{]/, "$metric is in the reference";
}

# Prometheus can parse the expressions

SKIP: {
    skip 'no promtool (Debian: prometheus)', 1
        if !grep { -x "$_/promtool" } split /:/, $ENV{PATH};
    my $dir = tempdir(CLEANUP => 1);
    my $n = 0;
    open my $f, '>', "$dir/rules.yml" or die "$dir: $!\n";
    print {$f} "groups:\n- name: panels\n  rules:\n";
    for my $expr (@exprs) {
        my $plain = $expr =~ s/\$__rate_interval/5m/gr;
        print {$f} '  - {record: panel', $n++, ", expr: '$plain'}\n";
    }
    close $f or die "$dir: $!\n";
    my $out = qx(promtool check rules $dir/rules.yml 2>&1);
    is $?, 0, 'Prometheus reads the expressions' or diag $out;
}

done_testing;
