# Units: what knows no HTTP, outside nginx.
#
#     my $units = Units->new('policy');      builds t/lib/units.c with these
#     my @out = $units->run('enroll first'); a line for each line

package Units;

use strict;
use warnings;

use File::Temp;

sub new {
    my ($class, @units) = @_;

    my $dir = File::Temp->newdir;
    my ($tree) = grep { -f "$_/objs/ngx_auto_config.h" }
        map {"build/$_/nginx"} qw(module asan static);
    die "no nginx is configured: run make\n" if !$tree;

    my $cc   = $ENV{CC} || 'cc';
    my $incs = qx(tools/nginx-flags $tree incs);
    my $src  = join ' ', 't/lib/units.c', map {"src/ngx_asana_$_.c"} @units;

    # without sanitizers where the compiler has none
    my @flags = ('-fsanitize=address,undefined -fno-sanitize-recover=all '
            . '-fno-sanitize=alignment,nonnull-attribute', '');

    for my $flags (@flags) {
        my $out = qx($cc -g -O1 -D_GNU_SOURCE -Wall -Wextra -Werror \\
            -Wno-unused-parameter $flags -Isrc -Isrc/store $incs $src \\
            -o $dir/units -lcrypto 2>&1);
        return bless {dir => $dir}, $class if $? == 0;
        die $out if $out !~ /sanitize|asan|ubsan/;
    }

    die "the units do not build\n";
}

sub run {
    my ($self, @lines) = @_;
    open my $in, '>', "$self->{dir}/in" or die "in: $!\n";
    print {$in} map {"$_\n"} @lines;
    close $in or die "in: $!\n";
    my @out = qx($self->{dir}/units <$self->{dir}/in);
    die "the units failed with $?\n" if $?;
    chomp @out;
    return @out;
}

1;
