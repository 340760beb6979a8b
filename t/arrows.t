# Tests for tools/arrows: units know only what lies below them, functions have
# the prefix of their unit, and files and functions are small.

use strict;
use warnings;

use lib 't/lib';

use File::Copy qw(copy);
use File::Path qw(make_path);
use File::Temp;
use Test::More;

use Slurp;

my @files = (glob('ngx_http_*.c'), glob('src/*.[ch]'), glob('src/*/*.[ch]'));

# what it says of the tree when this is done to one of its files

sub said {
    my ($path, $change) = @_;
    my $dir = File::Temp->newdir;
    make_path(map {"$dir/$_"} qw(src/http src/store));
    copy($_, "$dir/$_") or die "$_: $!" for @files;

    if ($path) {
        my $text = -f $path ? slurp($path) : '';
        $change->() for $text;
        open my $fh, '>', "$dir/$path" or die "$path: $!";
        print {$fh} $text;
        close $fh or die "$path: $!";
    }

    my $out = qx(tools/arrows $dir 2>&1);
    return ($?, $out);
}

my ($clean, $now) = said();
is $now, '', 'the tree as it is';
is $clean, 0, 'is clean';

sub reported {
    my ($name, $path, $change, $text) = @_;
    my ($rc, $out) = said($path, $change);
    $out =~ s/^\Q$_\E\n//m for split /\n/, $now;
    isnt $rc, 0, $name;
    like $out, qr/\A\Q$path\E:\d+: \Q$text\E\n\z/, 'is reported, alone';
    return;
}

# in the place of the first line, which is empty

sub include { my ($line) = @_; return sub { s/\A\n/$line\n/ } }

# a function at the end of a file, with so many lines

sub function {
    my ($name, @lines) = @_;
    my $text = join '', "\n\nvoid\n$name(void)\n{\n", (map {"    $_\n"} @lines),
        "}\n";
    return sub { $_ .= $text };
}

my $policy = 'src/ngx_asana_policy.c';
my $small  = 'src/ngx_asana_counters.c';

reported('a wrong #include', $policy, include('#include "ngx_asana_zone.h"'),
    'knows "ngx_asana_zone", which it may not');
reported('one of a unit that is not there',
    $policy, include('#include "ngx_asana_other.h"'),
    'knows "ngx_asana_other", which it may not');
reported('HTTP below it', $policy, include('#include <ngx_http.h>'),
    'knows "<ngx_http.h", which it may not');
reported('LMDB above its backend', 'src/ngx_asana_zone.c',
    include('#include <lmdb.h>'), 'knows "<lmdb.h", which it may not');
reported('a file of LMDB above its backend',
    'src/http/ngx_http_asana_conf.c',
    include('#include "ngx_asana_lmdb_env.h"'),
    'knows "ngx_asana_lmdb_env", which it may not');

reported('an upward call', $small,
    function('ngx_asana_counters_x', 'ngx_asana_zone_close(NULL);'),
    'uses "ngx_asana_zone_close" of "ngx_asana_zone"');
reported('an upward handler', $small,
    function('ngx_asana_counters_x', 'p = ngx_asana_policy_decide;'),
    'uses "ngx_asana_policy_decide" of "ngx_asana_policy"');
reported('a sideward call', 'src/http/ngx_http_asana_ack.c',
    function('ngx_http_asana_ack_x', 'ngx_http_asana_delivery(NULL);'),
    'uses "ngx_http_asana_delivery" of "ngx_http_asana_delivery"');
reported('the store called past the zone', 'src/http/ngx_http_asana_ack.c',
    function('ngx_http_asana_ack_x', 'ngx_asana_store_post(NULL, NULL);'),
    'uses "ngx_asana_store_post" of "ngx_asana_store"');

my ($rc, $out) = said($small, function('ngx_asana_counters_x',
    '/* ngx_asana_zone_close() */', 'p = "ngx_asana_zone_close";'));
is $out, $now, 'a comment or a string is no call';

reported('a function without the prefix', $small, function('ngx_asana_add'),
    '"ngx_asana_add" has not the prefix of its unit');
reported('one that only begins like it',
    $small, function('ngx_asana_countersx'),
    '"ngx_asana_countersx" has not the prefix of its unit');

($rc, $out) = said($small, function('ngx_asana_counters_x', ('x++;') x 80));
is $out, $now, 'a function of 80 lines';
reported('a function of 81',
    $small, function('ngx_asana_counters_x', ('x++;') x 81),
    '"ngx_asana_counters_x" has 81 lines, more than 80');

# files of so many lines

sub lines { my ($n) = @_; return sub { $_ = "\n" x $n } }

for my $case ([c => 650, ''], [h => 15, ''], [h => 120, '']) {
    my ($ext, $n) = @$case;
    ($rc, $out) = said("src/ngx_asana_json.$ext", lines($n));
    is $out, $now, "$n lines of .$ext";
}
reported('651 lines of .c', 'src/ngx_asana_json.c', lines(651),
    '651 lines, more than 650');
reported('121 of .h', 'src/ngx_asana_json.h', lines(121),
    '121 lines, more than 120');
reported('14 of .h', 'src/ngx_asana_json.h', lines(14),
    '14 lines, less than 15');

reported('a new unit', 'src/ngx_asana_other.c', sub { },
    'unit "ngx_asana_other" is not in tools/arrows');

# what the pages for who changes the module name is there

my $source = do { local (@ARGV, $/) = glob 'src/*.[ch] src/*/*.[ch] *.c'; join '', <> };
for my $page ('CONTRIBUTING.md', 'docs/internals.md') {
    my $text = do { local (@ARGV, $/) = $page; <> };
    my %names = map { $_ => 1 } $text =~ /\b(ngx_(?:http_)?asana_\w*[a-z])\b/g;
    is join(' ', grep { $source !~ /\b$_/ } sort keys %names), '',
        "$page: each name";
}

done_testing;
