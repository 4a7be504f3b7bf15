<?php

namespace App\Http;

use Illuminate\Foundation\Http\Kernel as HttpKernel;

class Kernel extends HttpKernel
{
    protected $middleware = [
        \App\Http\Middleware\PreventRequestsDuringMaintenance::class,
        \Illuminate\Foundation\Http\Middleware\ValidatePostSize::class,
        \Illuminate\Foundation\Http\Middleware\TrimStrings::class,
    ];

    protected $middlewareGroups = [
        'web' => [],
        'api' => [\Illuminate\Routing\Middleware\SubstituteBindings::class],
    ];

    protected $middlewareAliases = [
        'token' => \App\Http\Middleware\AuthenticateToken::class,
    ];
}
