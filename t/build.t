# Tests for the build: what is missing is said in a few words at its start.

use strict;
use warnings;

use lib 't/lib';

use Cwd qw(getcwd);
use File::Copy qw(copy);
use File::Path qw(make_path remove_tree);
use Test::More;

use Receiver qw(version);

my $source = $ENV{NGINX_SRC} || '/usr/share/nginx/src';
my $home   = Receiver->new;
my $dir    = $home->{dir};

sub said {
    my ($command) = @_;
    my $text = qx($command 2>&1);
    return ($? >> 8, $text);
}

# Runs "config" as nginx's configure does, with these headers in front of
# those of the system; a tree of OpenSSL is what --with-openssl= says.

sub configure {
    my ($openssl, %header) = @_;
    remove_tree("$dir/conf");
    make_path(map {"$dir/conf/$_/openssl"} qw(fake tree/include));
    make_path("$dir/conf/auto", "$dir/conf/objs");
    $home->write_file('conf/auto/module', '');
    copy("$source/auto/feature", "$dir/conf/auto/feature") or die $!;
    $home->write_file("conf/$_", $header{$_}) for keys %header;
    $home->write_file('conf/configure', <<"END");
CC=cc CC_TEST_FLAGS=-Ifake CC_AUX_FLAGS= NGX_TEST_LD_OPT= NGX_LD_OPT=
NGX_AUTOTEST=objs/autotest NGX_AUTOCONF_ERR=errors NGX_AUTO_CONFIG_H=config.h
NGX_INCLUDE_UNISTD_H='#include <unistd.h>' ngx_n=-n ngx_c=
OPENSSL=$openssl ngx_addon_dir='@{[getcwd()]}'
. \$ngx_addon_dir/config
END
    return said("cd $dir/conf && sh ./configure");
}

SKIP: {
    skip 'no source of nginx', 1 if !-d "$source/auto";

    my ($code, $text) = configure('NONE');
    is $code, 0, 'with all of it the module is configured' or diag $text;

    for (
        [ 'lmdb.h',        'LMDB',       'liblmdb-dev', 1 ],
        [ 'openssl/sha.h', 'OpenSSL',    'libssl-dev',  1 ],
        [ 'libpq-fe.h',    'PostgreSQL', 'libpq-dev',   0 ]
        )
    {
        my ($header, $what, $package, $end) = @$_;
        ($code, $text) = configure('NONE', "fake/$header" => "#error none\n");
        is $code, $end, "without $what";
        my ($line) = $text =~ /^(.*the asana_hook module.*)$/m;
        like $line, qr/ $what library; install it \($package on Debian.*\)/,
            'one line says so, with the way out';
    }

    # a source tree for --with-openssl= is as good

    ($code, $text) = configure('tree', 'fake/openssl/sha.h' => "#error none\n");
    is $code, 0, 'with a source tree of OpenSSL' or diag $text;
}

make_path("$dir/a path");
copy('Makefile', "$dir/a path/Makefile") or die $!;
my ($code, $text) = said("cd '$dir/a path' && make -s");
is $code, 2, 'make in a path with a space';
like $text, qr/\*\*\* the path "[^"]*a path" has a space/, 'says so';
is scalar(() = $text =~ /\n/g), 1, 'in one line' or diag $text;

# install takes what is built, or says why not

{
    my $tree = "$dir/install";
    make_path("$tree/build", "$tree/tools");
    copy('Makefile', "$tree/Makefile") or die $!;
    copy('tools/modules-path', "$tree/tools/modules-path") or die $!;
    chmod 0755, "$tree/tools/modules-path" or die $!;
    $home->write_file('install/nginx', <<'END');
#!/bin/sh
[ -z "$NGINX" ] || [ "$1" = -V ] || exit 3
case $* in
-V) echo 'configure arguments: --modules-path=/modules' >&2 ;;
'-t -q -e stderr -c '*) exec sh "${0%/*}/check" "$6" ;;
*) exit 2 ;;
esac
END
    chmod 0755, "$tree/nginx" or die $!;
    my $install = sub {
        return said("cd '$tree' && make -s install NGINX=./nginx "
            . "DESTDIR='$tree/root' 2>&1");
    };
    ($code, $text) = $install->();
    is $code, 2, 'install before make';
    like $text, qr/^there is no build\/\S+\.so yet: make it first$/m, 'says so';
    $home->write_file("install/build/$_.so", $_)
        for qw(ngx_http_asana_hook_module ngx_http_asana_hook_postgres_module);
    $home->write_file('install/check', "echo '[emerg] version' >&2; exit 1\n");
    ($code, $text) = $install->();
    is $code, 2, 'install for an nginx that does not load it';
    like $text, qr/^\[emerg\] version$/m, 'nginx says so';
    like $text, qr/^"\.\/nginx" does not load build\/\S+\.so: make it again,/m,
        'and what helps';
    ok !-e "$tree/root", 'and installs nothing';
    $home->write_file('install/check', "cp \"\$1\" '$tree/asked'\n");
    ($code, $text) = $install->();
    is $code, 0, 'install' or diag $text;
    is join(' ', $home->slurp('install/asked') =~ m{^load_module (\S+);}mg),
        join(' ', map {"$tree/build/ngx_http_asana_hook_${_}module.so"}
            '', 'postgres_'), 'nginx was asked to load both';
    is join(' ', map {s{.*/}{}r} glob "$tree/root/modules/*"),
        'ngx_http_asana_hook_module.so ngx_http_asana_hook_postgres_module.so',
        'what was built is there';
}

# the tarball is the same each time, and has the version of the source

SKIP: {
    skip 'no checkout', 1 if !-e '.git';
    my $version = version();
    my $name = "build/ngx_http_asana_hook_module-$version.tar.gz";
    my @sums = map {
        unlink $name;
        said('make -s dist');
        (said("sha256sum $name"))[1];
    } 1, 2;
    is $sums[0], $sums[1], 'make dist: the same bytes';
    ($code, $text) = said("cd build && sha256sum -c ../$name.sha256");
    is $code, 0, 'and their checksum';
    like `tar -tzf $name`, qr{^\Qngx_http_asana_hook_module-$version\E/config$}m,
        'below a folder with the version';
}

# whatever else has a version has that of the source

for (
    [ 'CHANGES',           qr/asana-hook (\S+)/ ],
    [ 'debian/changelog',  qr/\(([^)-]*)-\d+\)/ ],
    [ 'debian/NEWS',       qr/\(([^)-]*)-\d+\)/ ],
    [ 'tools/asana-hook',  qr/\$VERSION = '(.*)'/ ],
    [ 'share/nginx-mod-asana-hook.spec', qr/^Version: *(\S+)$/m ]
    )
{
    my ($file, $shape) = @$_;
    is +(qx(cat $file) =~ $shape)[0], version(), "version in $file";
}

# the pictures are what their command draws

{
    make_path("$dir/pictures/tools", "$dir/pictures/docs");
    copy('tools/pictures', "$dir/pictures/tools/pictures") or die $!;
    ($code, $text) = said("perl '$dir/pictures/tools/pictures'");
    is $code, 0, 'pictures' or diag $text;
    for my $name (qw(handshake path)) {
        ok $home->slurp("pictures/docs/$name.svg") eq qx(cat docs/$name.svg),
            "$name.svg: tools/pictures draws the same";
    }
}

# an nginx that was upgraded is another one

{
    my $tree = "$dir/upgrade";
    make_path("$tree/src/core");
    copy('Makefile', "$tree/Makefile") or die $!;
    my @for = map {
        $home->write_file('upgrade/src/core/nginx.h', "version $_\n");
        said("cd '$tree' && make -s build/module/for NGINX_SRC='$tree'");
        my $for = $home->slurp('upgrade/build/module/for');
        $for;
    } 1, 1, 2;
    ok length $for[0], 'make notes what it builds for';
    is $for[1],   $for[0], 'the same nginx: nothing to do';
    isnt $for[2], $for[0], 'another version at the same place: anew';
}

$home->end;

done_testing;
