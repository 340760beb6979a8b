package Lmdb;

# The backend in LMDB outside nginx: drives t/lib/lmdb.c, whose commands are
# told there.  $in, $out and $pid are the driver's, for tests that have two.

use strict;
use warnings;

use Digest::SHA qw(sha256_hex);
use Exporter qw(import);
use File::Temp qw(tempdir);
use IPC::Open2 qw(open2);
use Test::More;

use Slurp;

our @EXPORT_OK = qw($dir $in $out $pid $plain batch checked end fresh id opened
    say_to secret slurp start used);

our $dir = tempdir(CLEANUP => 1);
our ($in, $out, $pid);
my $n = 0;

sub build {
    my ($name, $flags) = @_;
    my ($tree) = grep { -f "$_/objs/ngx_auto_config.h" }
        map {"build/$_/nginx"} qw(module asan static);
    die "no nginx is configured: run make\n" if !$tree;
    my $cc   = $ENV{CC} || 'cc';
    my $incs = qx(tools/nginx-flags $tree incs);
    chomp $incs;
    my $src = 't/lib/lmdb.c src/ngx_asana_secrets.c src/ngx_asana_policy.c '
        . 'src/ngx_asana_counters.c src/ngx_asana_task.c '
        . 'src/ngx_asana_health.c '
        . 'src/store/ngx_asana_seal.c '
        . join ' ', glob 'src/store/ngx_asana_lmdb*.c';
    my $said = qx($cc -g -O1 -D_GNU_SOURCE -Wall -Wextra -Werror \\
        -Wno-unused-parameter $flags -Isrc -Isrc/store $incs $src \\
        -o $dir/$name -llmdb -lcrypto -lpthread 2>&1);
    return "$dir/$name" if $? == 0;
    die $said if $said !~ /sanitize|asan|ubsan/ || !$flags;
    return;
}

our $plain = build('plain', '');
my $driver = build('asan', '-fsanitize=address,undefined '
        . '-fno-sanitize-recover=all '
        . '-fno-sanitize=alignment,nonnull-attribute')
    || $plain;

sub start {
    my ($program) = @_;
    local $ENV{ASAN_OPTIONS} = 'detect_leaks=1';
    open my $log, '>', "$dir/log" or die $!;
    open my $err, '>&', \*STDERR or die $!;
    open STDERR, '>&', $log or die $!;
    ($in, $out) = ();
    $pid = open2($out, $in, $program || $driver);
    open STDERR, '>&', $err or die $!;
    return;
}

sub say_to {
    my (@lines) = @_;
    my @said;
    for my $line (@lines) {
        print {$in} "$line\n";
        $in->flush;
        my $said = <$out>;
        if (!defined $said) {
            diag slurp("$dir/log");
            BAIL_OUT("the driver ended at: $line");
        }
        chomp $said;
        push @said, $said;
    }
    return wantarray ? @said : $said[-1];
}

# changes that are one batch

sub batch {
    my (@lines) = @_;
    print {$in} join '', map {"$_\n"} 'begin', @lines, 'run';
    $in->flush;
    my $said = <$out>;
    BAIL_OUT('the driver ended: ' . slurp("$dir/log")) if !defined $said;
    return split ' ', $said;
}

sub end {
    close $in;
    waitpid $pid, 0;
    return is $?, 0, 'the driver ends well';
}

sub id { my ($secret) = @_; return substr sha256_hex($secret), 0, 16 }
sub secret { my ($name) = @_; return "a-secret-of-some-length-$name" }

sub fresh {
    my $state = "$dir/state-" . $n++;
    mkdir $state or die $!;
    return $state;
}

# max_size, inactive, pending, max_secrets, and a key file

sub opened {
    my ($state, @args) = @_;
    @args = (1 << 20, 86400, 300, 16) if !@args;
    return say_to("open $state @args");
}

sub checked {
    my ($name) = @_;
    say_to('close');
    return like say_to('check'), qr/^pending \d+ unproven \d+ proven \d+$/,
        "indexes and values agree: $name";
}

sub used { my ($used) = say_to('stat') =~ /used (\d+)/; return $used }

1;
