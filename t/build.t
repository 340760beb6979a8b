# Tests for the build: what is missing is said in a few words at its start.

use strict;
use warnings;

use lib 't/lib';

use Cwd qw(getcwd);
use File::Copy qw(copy);
use File::Path qw(make_path remove_tree);
use Test::More;

use Receiver;

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

    ($code, $text) = configure('NONE', 'fake/lmdb.h' => "#error none\n");
    is $code, 1, 'without LMDB it is not';
    like $text, qr/error: the asana_hook module requires the LMDB library/,
        'and says so';
    like $text, qr/\(liblmdb-dev on Debian/, 'with the way out';

    # 1.1.1 has no such file, LibreSSL and BoringSSL no such function

    my %none = (
        'no header'   => { 'fake/openssl/core_names.h' => "#error none\n" },
        'no function' => {
            'fake/openssl/evp.h'        => "int EVP_MD_fetch(void);\n",
            'fake/openssl/core_names.h' => ''
        }
    );
    for my $what (sort keys %none) {
        ($code, $text) = configure('NONE', %{ $none{$what} });
        is $code, 1, "OpenSSL with $what: it is not";
        like $text, qr/error: the asana_hook module requires OpenSSL 3\.0/,
            'and says so';
        like $text, qr/\(libssl-dev on Debian/, 'with the way out';
    }

    # a source tree for --with-openssl=

    my $evp = 'tree/include/openssl/evp.h';
    ($code, $text) = configure('tree', $evp => "int EVP_MAC_fetch(void);\n");
    is $code, 0, 'a tree of OpenSSL 3' or diag $text;
    ($code, $text) = configure('tree', $evp => "int EVP_MD_fetch(void);\n");
    is $code, 1, 'a tree of another one';
    like $text, qr/error: the asana_hook module requires OpenSSL 3\.0/,
        'is refused';
}

make_path("$dir/a path");
copy('Makefile', "$dir/a path/Makefile") or die $!;
my ($code, $text) = said("cd '$dir/a path' && make -s");
is $code, 2, 'make in a path with a space';
like $text, qr/\*\*\* the path "[^"]*a path" has a space/, 'says so';
is scalar(() = $text =~ /\n/g), 1, 'in one line' or diag $text;

$home->end;

done_testing;
