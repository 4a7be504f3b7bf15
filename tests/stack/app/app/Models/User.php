<?php

namespace App\Models;

use Illuminate\Database\Eloquent\Model;

class User extends Model
{
    protected $hidden = ['password', 'avatar'];

    protected $casts = [
        'phone' => 'encrypted',
        'preferences' => 'array',
        'balance' => 'decimal:2',
        'last_login_at' => 'datetime',
    ];
}
