<?php

namespace App\Providers;

use App\Support\Beat;
use Illuminate\Queue\Events\Looping;
use Illuminate\Support\Facades\Event;
use Illuminate\Support\ServiceProvider;

class AppServiceProvider extends ServiceProvider
{
    private float $lastBeat = 0;

    public function boot(): void
    {
        Event::listen(Looping::class, function (): void {
            if (microtime(true) - $this->lastBeat > 10) {
                $this->lastBeat = microtime(true);
                rescue(static fn () => Beat::record('queue'));
            }
        });
    }
}
